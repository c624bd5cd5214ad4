"""The section of `make bench` about the objects of a result: size and time of each."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from calcium.series import CTSeries
    from models.results import ScoringResult

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


def builders() -> dict[str, Callable[[Any, Any], bytes]]:
    """Return kind -> a function of series and result that makes the object's file."""
    from worker.companions import BUILDERS  # noqa: PLC0415 (torch and matplotlib, only where they are measured)
    from worker.encoding import file_bytes  # noqa: PLC0415
    from worker.report.document import ReportConfig, build_report  # noqa: PLC0415

    config = ReportConfig(made_at=MADE_AT)
    reports = {
        kind: lambda series, result, kind=kind: file_bytes(
            build_report(series, result, kind=kind, config=config)
        )
        for kind in ("sr3d", "sr")
    }
    companions = {
        kind: lambda series, result, build=build: file_bytes(build(series, result, config))
        for kind, build in BUILDERS.items()
    }
    return reports | companions


def measured(series: CTSeries, result: ScoringResult, runs: int) -> dict[str, tuple[int, list[float]]]:
    """Return kind -> bytes of the file, and seconds of each run (one more warms up)."""
    found = {}
    for kind, make in builders().items():
        make(series, result)
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            content = make(series, result)
            seconds.append(time.perf_counter() - started)
        found[kind] = len(content), seconds
    return found


def table(
    at: dict[int, dict[str, tuple[int, list[float]]]], peers: dict[int, list[float]], scores: dict[int, int]
) -> str:
    """Return the Markdown part.

    Parameters
    ----------
    at
        Slices -> kind -> (bytes, seconds).
    peers
        Slices -> seconds of reading the series, for the ratio.
    scores
        Slices -> how many slice scores stand in the report.
    """
    counts = list(at)
    head = ["object", *(f"{count} slices, {unit}" for count in counts for unit in ("kB", "s", "of reading"))]
    lines = [
        "## Objects of a result",
        (
            "Simulated scans of 512 x 512 with much calcium, each object made and encoded in a warm process; "
            "median seconds (least to greatest), and as a ratio to reading the series. Slice scores in the "
            "reports: " + ", ".join(f"{scores[count]} from {count} slices" for count in counts) + "."
        ),
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    for kind in at[counts[0]]:
        cells = [kind]
        for count in counts:
            size, seconds = at[count][kind]
            ratio = statistics.median(seconds) / statistics.median(peers[count])
            cells += [f"{size / 1000:.1f}", _spread(seconds), f"{ratio:.2f}"]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def objects(work: Path, runs: int) -> str:
    """Make every object of an 80-slice and of a 300-slice series."""
    from bench_sections import scan_of, timed  # noqa: PLC0415 (it names this section)

    from calcium.series import read_series  # noqa: PLC0415
    from models.options import ScoringOptions  # noqa: PLC0415
    from models.pipeline import score_files  # noqa: PLC0415
    from models.scoring import Scorer  # noqa: PLC0415
    from models.training.phantom import write_dicom  # noqa: PLC0415

    scorer = Scorer.load(ScoringOptions.read({}))
    at, peers, scores = {}, {}, {}
    for slices in (80, 300):
        paths = write_dicom(scan_of(slices, calcium="high"), work / f"scan{slices}")
        outcome = score_files(paths, scorer)
        if outcome.result is None or outcome.series is None:
            raise RuntimeError(f"the benchmark's scan was not scored: {outcome.reason}")
        peers[slices] = [timed(lambda paths=paths: read_series(paths)) for _ in range(runs)]
        at[slices] = measured(outcome.series, outcome.result, runs)
        scores[slices] = sum(one.agatston > 0 for one in outcome.result.slice_scores)
    return table(at, peers, scores)
