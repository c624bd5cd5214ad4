"""A soak: closed-loop traffic at the rate that a node sustains, while all its processes are measured."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psutil
from sqlalchemy import func, select, text
from traffic import Kind, Scanner, SentSeries, copy_of

from service.database import UNAVAILABLE, Database
from service.tables import Delivery, Job, OutputObject, Series

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from node import Node
    from pydicom.dataset import Dataset

SAMPLE_SECONDS = 10.0
IN_FLIGHT = 6  # series that were begun and whose jobs have not ended; a scanner waits for room
WARM_UP = 0.2  # of the whole: pools fill, caches fill, torch allocates
MIB = 1 << 20
ROLES = {"up": "supervisor", "scp": "scp", "api": "api", "worker": "worker", "delivery": "sender"}


@dataclass
class Sample:
    """What all processes hold at one moment."""

    at: float  # seconds since the start
    rss_mib: dict[str, float]
    descriptors: dict[str, int]
    threads: dict[str, int]
    database_mib: float
    ended: int  # jobs


@dataclass
class Soak:
    """What a soak found; times are seconds since its start."""

    samples: list[Sample] = field(default_factory=list)
    stores: list[tuple[float, float]] = field(default_factory=list)  # (when, C-STORE answered after)
    results: list[tuple[float, float]] = field(
        default_factory=list
    )  # (when, series closed to report delivered)
    seconds: float = 0.0
    series: int = 0
    refused: dict[int, int] = field(default_factory=dict)

    def window(self, pairs: Sequence[tuple[float, float]], start: float, end: float) -> list[float]:
        """Return the values of a part of the time; `start` and `end` are fractions of the whole."""
        return [value for at, value in pairs if start * self.seconds <= at <= end * self.seconds]

    def held(self, what: str, role: str, start: float, end: float) -> float:
        """Return the median of a process's figure in a part of the time."""
        pairs = [(one.at, getattr(one, what)[role]) for one in self.samples if role in getattr(one, what)]
        return statistics.median(self.window(pairs, start, end))

    def slope(self, what: str, role: str) -> float:
        """Return the growth of a process's figure after the warm-up, per hour (Theil-Sen: median of slopes)."""
        pairs = [
            (one.at, getattr(one, what)[role])
            for one in self.samples
            if one.at >= WARM_UP * self.seconds and role in getattr(one, what)
        ]
        slopes = [
            (later[1] - earlier[1]) / (later[0] - earlier[0])
            for index, earlier in enumerate(pairs)
            for later in pairs[index + 1 :]
        ]
        return 3600 * statistics.median(slopes)


def processes(node: Node) -> dict[str, psutil.Process]:
    """Return the processes of a node by their roles."""
    supervisor = psutil.Process(node.process.pid)
    found = {}
    for process in (supervisor, *supervisor.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            role = ROLES.get(process.cmdline()[-1])
            if role is not None:
                found[role] = process
    return found


def measure(node: Node, database: Database, at: float) -> Sample:
    """Look at all processes and at the database."""
    rss, descriptors, threads = {}, {}, {}
    for role, process in processes(node).items():
        with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
            rss[role] = process.memory_info().rss / MIB
            descriptors[role], threads[role] = process.num_fds(), process.num_threads()
    with database.reading() as session:
        size = session.scalar(text("SELECT pg_database_size(current_database())")) or 0
        ended = session.scalar(select(func.count()).select_from(Job).where(Job.ended_at.is_not(None))) or 0
    return Sample(at, rss, descriptors, threads, size / MIB, ended)


class Room:
    """Lets a scanner begin a series only where fewer than IN_FLIGHT are unfinished."""

    def __init__(self, database: Database, ending: threading.Event) -> None:
        self._database, self._ending = database, ending
        self._lock = threading.Lock()
        self.begun = 0

    def take(self) -> int | None:
        """Wait for room and return the number of the new series; None when the soak ends."""
        while not self._ending.is_set():
            with self._lock, contextlib.suppress(*UNAVAILABLE), self._database.reading() as session:
                ended = session.scalar(
                    select(func.count(func.distinct(Job.series_id))).where(Job.ended_at.is_not(None))
                )
                if self.begun - (ended or 0) < IN_FLIGHT:
                    self.begun += 1
                    return self.begun
            self._ending.wait(0.5)
        return None


def soak(node: Node, database: Database, slices: Sequence[Dataset], seconds: float, *, scanners: int) -> Soak:
    """Let scanners send for so long, then let all end; every tenth series is not eligible."""
    ending, found = threading.Event(), Soak(seconds=seconds)
    began, wall = time.monotonic(), time.time()
    room = Room(database, ending)
    senders = [Scanner(node.dicom_port, f"SCANNER{number}", threading.Event()) for number in range(scanners)]
    sent: list[SentSeries] = []

    def work(sender: Scanner) -> None:
        chance = random.Random(sender.title)
        while (number := room.take()) is not None:
            kind = Kind.CONTRAST if number % 10 == 0 else Kind.ELIGIBLE
            series = copy_of(slices, number, kind, run=f"soak {wall}")
            sent.append(series)
            sender.until_acknowledged([(series, ds) for ds in series.slices], chance)
            series.slices.clear()  # only counted from here on
            series.digests.clear()

    threads = [threading.Thread(target=work, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    while (at := time.monotonic() - began) < seconds:
        found.samples.append(measure(node, database, at))
        for path in ("/metrics", "/"):  # as a monitor and a person would
            with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}{path}", timeout=30) as answer:
                answer.read()
        time.sleep(max(0.0, min(SAMPLE_SECONDS, seconds - (time.monotonic() - began))))
    ending.set()
    for thread in threads:
        thread.join()
    for sender in senders:
        assert not sender.broken, sender.broken
        found.stores += [(at - wall, value) for at, value in sender.seconds]
        for status, count in sender.refused.items():
            found.refused[status] = found.refused.get(status, 0) + count
    found.series = len(sent)
    return found


def add_results(found: Soak, database: Database) -> None:
    """Read from the rows how long each report took from the closed series to the archive."""
    start = datetime.now(UTC) - timedelta(days=1)
    with database.reading() as session:
        rows = session.execute(
            select(Series.closed_at, Delivery.delivered_at)
            .join(Job, Job.series_id == Series.id)
            .join(OutputObject, OutputObject.job_id == Job.id)
            .join(Delivery, Delivery.object_id == OutputObject.id)
            .where(OutputObject.kind == "sr3d", Delivery.delivered_at.is_not(None), Series.closed_at > start)
        ).all()
        first = session.scalar(select(func.min(Series.first_received_at)))
    found.results = [
        ((closed - first).total_seconds(), (delivered - closed).total_seconds()) for closed, delivered in rows
    ]


def table(found: Soak) -> str:
    """Return the figures as Markdown."""
    minutes = found.seconds / 60
    after = [one for one in found.samples if one.at >= WARM_UP * found.seconds]
    rate = 60 * (after[-1].ended - after[0].ended) / (after[-1].at - after[0].at)
    lines = [
        (
            f"{minutes:.0f} minutes, {found.series} series, {len(found.stores)} slices acknowledged, "
            f"refused: {found.refused or 'none'}; after the warm-up {rate:.1f} series ended a minute."
        ),
        "",
        "| process | MiB after warm-up | MiB at the end | MiB an hour | descriptors | at the end | threads |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for role in [one for one in ROLES.values() if one in found.samples[-1].rss_mib]:
        cells = (
            f"{found.held('rss_mib', role, *EARLY):.0f}",
            f"{found.held('rss_mib', role, *LATE):.0f}",
            f"{found.slope('rss_mib', role):+.0f}",
            f"{found.held('descriptors', role, *EARLY):.0f}",
            f"{found.held('descriptors', role, *LATE):.0f}",
            f"{found.held('threads', role, *LATE):.0f}",
        )
        lines += [f"| {role} | {' | '.join(cells)} |"]
    lines += ["", "| latency, s | median early | median late | 95 % late |", "| --- | --- | --- | --- |"]
    for name, pairs in (
        ("C-STORE answered", found.stores),
        ("series closed to report delivered", found.results),
    ):
        early, late = found.window(pairs, *EARLY), found.window(pairs, *LATE)
        top = statistics.quantiles(late, n=20)[-1]
        lines.append(f"| {name} | {statistics.median(early):.3f} | {statistics.median(late):.3f} | {top:.3f} |")
    first, last = after[0].database_mib, after[-1].database_mib
    lines += ["", f"The database grew from {first:.0f} to {last:.0f} MiB."]
    return "\n".join(lines)


EARLY, LATE = (WARM_UP, WARM_UP + 0.3), (0.7, 1.0)  # parts of the time that are compared


def plot(found: Soak, path: Path) -> None:
    """Draw memory, descriptors and latency over time."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (only for the picture)

    figure = Figure(figsize=(9, 6), layout="constrained")
    memory, descriptors, stores, results = figure.subplots(2, 2).flat
    for role in ROLES.values():
        for axes, what in ((memory, "rss_mib"), (descriptors, "descriptors")):
            pairs = [
                (one.at / 60, getattr(one, what)[role]) for one in found.samples if role in getattr(one, what)
            ]
            axes.plot(*zip(*pairs, strict=True), label=role, linewidth=1)
    memory.set(title="resident memory, MiB", ylim=(0, None))
    descriptors.set(title="open descriptors", ylim=(0, None))
    memory.legend(fontsize="small")
    for axes, pairs, title in (
        (stores, found.stores, "C-STORE answered, s; median of each minute"),
        (results, found.results, "closed to delivered, s; median of each minute"),
    ):
        pairs = [(at, value) for at, value in pairs if at <= found.seconds]  # noqa: PLW2901 (the others ran out)
        axes.scatter([at / 60 for at, _ in pairs], [value for _, value in pairs], s=1, alpha=0.3)
        by_minute: dict[int, list[float]] = {}
        for at, value in pairs:
            by_minute.setdefault(int(at // 60), []).append(value)
        minutes = sorted(by_minute)
        axes.plot(
            [one + 0.5 for one in minutes], [statistics.median(by_minute[one]) for one in minutes], "k", lw=1
        )
        top = sorted(value for _, value in pairs)[int(0.99 * (len(pairs) - 1))]
        axes.set(title=title, ylim=(0, 1.2 * top), xlabel="minutes")
    figure.savefig(path, dpi=80)
