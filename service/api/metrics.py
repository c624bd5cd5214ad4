"""Figures for Prometheus, read from the database at each scrape: no other process has to be asked.

Gauges are counted from the rows (cached for two seconds). Counters and the histogram of stage times follow the
history of jobs: each scrape reads the events that came since the last one, from the API's start on; like every
Prometheus counter they begin at zero with the process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from calcium.job import JobState
from service.beats import alive
from service.database import UNAVAILABLE
from service.tables import Alert, Instance, Job, JobEvent, ProcessBeat, Result, Series, now

if TYPE_CHECKING:
    from service.api.node import Node

STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 60, 180)  # seconds
OVERLAP = 1000
"""Event numbers read again at each scrape: a transaction that began earlier may commit later."""
MAX_EVENTS = 10_000  # of one scrape; the rest comes with the next
# What an SCP counts: name in its beat -> kind, text, label.
COUNTED = {
    "instances": ("counter", "C-STORE requests: stored, duplicate, or why they were refused.", "outcome"),
    "associations": ("counter", "Associations that ended, by how.", "end"),
    "store_seconds": ("histogram", "From a complete C-STORE request to its durable row.", "le"),
}
DELIVERY_STATES = ("pending", "sending", "stored", "delivered", "refused", "cancelled")


def exposition(node: Node) -> bytes:
    """Return all figures in Prometheus' text format."""
    return generate_latest(node.metrics)


def registry(node: Node) -> CollectorRegistry:
    """Make the figures of one application."""
    made = CollectorRegistry()
    made.register(_Rows(node))
    made.register(_History(node))
    return made


def _family(name: str, text: str, values: dict[str, int], label: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


class _Rows(Collector):
    """Gauges: what the rows say now.

    Parameters
    ----------
    node
        Whose rows.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not need the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the rows; without a database only what needs none."""
        info = {"version": self._node.version, "ae_title": self._node.settings.ae_title}
        yield InfoMetricFamily("agatston", "The node.", value=info)
        free = self._node.disk_free_bytes()
        yield GaugeMetricFamily("agatston_disk_free_bytes", "Space left for received slices.", free)
        up = "Whether the database answers."
        try:
            families = list(self._of_database())
        except UNAVAILABLE:
            yield GaugeMetricFamily("agatston_database_up", up, 0)
            return
        yield GaugeMetricFamily("agatston_database_up", up, 1)
        yield from families

    def _of_database(self) -> Iterable[Metric]:
        counters, moment = self._node.counters(), now()
        with self._node.database.reading() as session:
            beats = session.execute(select(ProcessBeat.kind, ProcessBeat.name, ProcessBeat.seen_at)).all()
            alerts = session.scalar(select(func.count(Alert.id)).where(Alert.acknowledged_at.is_(None)))
            # The highest number ever given: counting the rows of two years would take minutes.
            series, instances = session.execute(
                select(
                    select(func.max(Series.id)).scalar_subquery(),
                    select(func.max(Instance.id)).scalar_subquery(),
                )
            ).one()
        for name, text, value in (
            ("agatston_series_rows", "Highest number of a series: how many were ever received.", series or 0),
            ("agatston_instances_rows", "Highest number of an instance: about how many were ever received.",
             instances or 0),
            ("agatston_series_open", "Series that still arrive.", counters.open_series),
            ("agatston_alerts", "Alerts that nobody acknowledged.", alerts or 0),
            ("agatston_queue_age_seconds", "Age of the oldest job that is due.",
             _age(moment, counters.waiting_since)),
            ("agatston_undelivered_age_seconds", "Age of the oldest undelivered object.",
             _age(moment, counters.undelivered_since)),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, text, value)
        jobs = {str(state): counters.jobs.get(state, 0) for state in JobState}
        yield _family("agatston_jobs", "Jobs by state.", jobs, "state")
        deliveries = {state: counters.deliveries.get(state, 0) for state in DELIVERY_STATES}
        yield _family("agatston_deliveries", "Deliveries by state.", deliveries, "state")
        yield from _told_by(self._node)
        text = "Since a process was last seen."
        seen = GaugeMetricFamily("agatston_process_seen_seconds", text, labels=["kind", "name"])
        for kind, name, seen_at in beats:
            seen.add_metric([kind, name], _age(moment, seen_at))
        yield seen


def _told_by(node: Node) -> Iterable[Metric]:
    """Return the counters that the living SCPs told with their latest beats (service.metrics.snapshot)."""
    told = [(beat.name, beat.detail.get("counters", {})) for beat in alive(node.database, "scp")]
    for name, (kind, text, label) in COUNTED.items():
        family = Metric(f"agatston_{name}", text, kind)
        for process, counters in told:
            for sample, value in counters.get(name, {}).items():
                sample_name, *values = sample.split(",")
                labels = dict(zip((label,), values, strict=False))  # the sum of a histogram has none
                family.add_sample(sample_name, {**labels, "process": process}, value)
        yield family


def _age(moment: datetime, since: datetime | None) -> float:
    return max(0.0, (moment - since).total_seconds()) if since is not None else 0.0


class _History(Collector):
    """Counters: follows the events of jobs.

    Parameters
    ----------
    node
        Whose jobs.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._latest: int | None = None  # number of the latest event read
        self._seen: set[int] = set()  # numbers of those read within OVERLAP
        self.events = Counter("agatston_job_events", "Steps of jobs.", ["event"], registry=None)
        self.results = Counter("agatston_results", "Scores by risk group.", ["risk_group"], registry=None)
        text = "Wall clock of the stages of scored jobs."
        self.stages = Histogram("agatston_stage_seconds", text, ["stage"], buckets=STAGE_BUCKETS, registry=None)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not need the database."""
        return ()

    def start(self) -> None:
        """Begin with the events that come from now on."""
        with self._lock, contextlib.suppress(*UNAVAILABLE), self._node.database.reading() as session:
            self._begin(session)

    def collect(self) -> Iterable[Metric]:
        """Move the counters on, then report them."""
        with self._lock:
            with contextlib.suppress(*UNAVAILABLE), self._node.database.reading() as session:
                if self._latest is None:
                    self._begin(session)
                else:
                    self._follow(session, self._latest)
            for counter in (self.events, self.results, self.stages):
                yield from counter.collect()

    def _begin(self, session: Session) -> None:
        self._latest = session.scalar(select(func.max(JobEvent.id))) or 0
        self._seen = set(range(max(0, self._latest - OVERLAP), self._latest + 1))

    def _follow(self, session: Session, latest: int) -> None:
        rows = session.execute(
            select(JobEvent.id, JobEvent.event, JobEvent.job_id)
            .where(JobEvent.id > latest - OVERLAP)
            .order_by(JobEvent.id)
            .limit(MAX_EVENTS)
        ).all()
        fresh = [row for row in rows if row.id not in self._seen]
        for row in fresh:
            self.events.labels(row.event).inc()
        scored = {row.job_id for row in fresh if row.event == "score"}
        for seconds, group in session.execute(
            select(Job.seconds, Result.risk_group)
            .join(Result, Result.job_id == Job.id)
            .where(Job.id.in_(scored))
        ):
            self.results.labels(group).inc()
            for stage, value in seconds.items():
                self.stages.labels(stage).observe(value)
        if rows:
            self._latest = max(rows[-1].id, latest)
        self._seen = {row.id for row in rows if row.id > (self._latest or 0) - OVERLAP}
