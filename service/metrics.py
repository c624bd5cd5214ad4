"""Counters of the SCP's process, told with its beats (service.beats), for the API is another process.

What rows can tell (jobs, deliveries, queue), the API counts from the rows.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

INSTANCES = Counter("agatston_instances_total", "C-STORE requests by what became of them", ["outcome"])
ASSOCIATIONS = Counter("agatston_associations_total", "Associations that ended, by how", ["end"])
STORE_SECONDS = Histogram(
    "agatston_store_seconds",
    "From a complete C-STORE request to its durable row",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)


def snapshot() -> dict[str, dict[str, float]]:
    """Return all counters since the start of this process: name -> label values -> value."""
    return {family: _samples(metric) for family, metric in FAMILIES.items()}


def _samples(metric: MetricWrapperBase) -> dict[str, float]:
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for found in metric.collect()
        for sample in found.samples
        if not sample.name.endswith("_created")
    }


FAMILIES: dict[str, MetricWrapperBase] = {
    "instances": INSTANCES,
    "associations": ASSOCIATIONS,
    "store_seconds": STORE_SECONDS,
}
