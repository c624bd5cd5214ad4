"""Counters of the SCP's process. What rows can tell (jobs, deliveries, queue), the API counts from the rows."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

INSTANCES = Counter("agatston_instances_total", "C-STORE requests by what became of them", ["outcome"])
ASSOCIATIONS = Counter("agatston_associations_total", "Associations that ended, by how", ["end"])
STORE_SECONDS = Histogram(
    "agatston_store_seconds",
    "From a complete C-STORE request to its durable row",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
