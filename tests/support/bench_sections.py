"""The sections of `make bench`; each returns a Markdown part."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import peers
import psutil
from bench_objects import objects

if TYPE_CHECKING:
    from pathlib import Path

    from models.training.phantom import PhantomScan

Section = Callable[["Path", int], str]
IMAGES = 300  # of one association


def spread(values: list[float], form: str = ".2f") -> str:
    """Return median (least to greatest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def timed(action: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def scan_of(slices: int, seed: int = 1, calcium: str = "auto") -> PhantomScan:
    """Return a simulated scan of exactly so many slices around the heart; `calcium` as PhantomConfig."""
    from calcium.geometry import VolumeGeometry  # noqa: PLC0415
    from calcium.volume import CTVolume  # noqa: PLC0415
    from models.training.phantom import PhantomConfig, make_scan  # noqa: PLC0415

    thickness = 1.0 if slices > 150 else 3.0
    scan = make_scan(
        seed, config=PhantomConfig(thickness_mm=thickness, z_coverage="neck_to_abdomen", calcium=calcium)
    )
    volume = scan.volume
    middle = volume.geometry.to_index(scan.heart_box.low)[0] + volume.geometry.to_index(scan.heart_box.high)[0]
    first = min(max(0, int(middle / 2 - slices / 2)), volume.geometry.shape[0] - slices)
    hu = volume.hu[first : first + slices].copy()
    x, y, _ = volume.geometry.origin_mm
    geometry = VolumeGeometry((x, y, volume.geometry.z_mm(first)), volume.geometry.spacing_mm, hu.shape)
    return replace(scan, volume=CTVolume(hu, geometry, volume.slice_thickness_mm))


def _write(scan: PhantomScan, folder: Path) -> list[Path]:
    from models.training.phantom import write_dicom  # noqa: PLC0415

    return write_dicom(scan, folder)


def _written(slices: int, folder: Path) -> list[Path]:
    return _write(scan_of(slices), folder)


def _send(port: int, folders: list[Path], called: str) -> float:
    def one(folder: Path) -> None:
        peers.storescu(port, folder, called=called)

    with ThreadPoolExecutor(len(folders)) as pool:
        return timed(lambda: list(pool.map(one, folders)))


def ingest(work: Path, runs: int) -> str:
    """Receive 300 slices on one and on four associations: our SCP against dcmtk's storescp and Orthanc."""
    folders = []
    scan = scan_of(IMAGES)
    for number in range(4):
        folders.append(work / f"scan{number}")
        # The same pixels under other UIDs.
        _write(replace(scan, description={**scan.description, "seed": number}), folders[-1])
    rows: dict[str, dict[int, list[float]]] = {name: {1: [], 4: []} for name in ("ours", "storescp", "Orthanc")}
    memory: list[float] = []
    for run in range(runs):
        for associations in (1, 4):
            sent = folders[:associations]
            home = work / f"home{run}-{associations}"
            with _our_scp(home) as (port, process):
                rows["ours"][associations].append(IMAGES * associations / _send(port, sent, "AGATSTON"))
                memory.append(process.memory_info().rss / (1 << 20))
            with peers.storescp(work / f"store{run}-{associations}", "--fork") as peer:
                rows["storescp"][associations].append(IMAGES * associations / _send(peer.port, sent, peer.aet))
            with peers.orthanc(work / f"orthanc{run}-{associations}") as archive:
                rows["Orthanc"][associations].append(
                    IMAGES * associations / _send(archive.port, sent, archive.aet)
                )
    lines = [
        "## Receiving",
        (
            f"{IMAGES} slices of 512 x 512 for each association, sent by dcmtk's `storescu` (TCP_NODELAY=1) on "
            "the same machine. Ours answers after fsync and a committed row; `storescp --fork` does neither, "
            "Orthanc indexes without fsync."
        ),
        "",
        "| SCP | images/s, 1 association | ratio ours / it | images/s, 4 associations | ratio ours / it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, figures in rows.items():
        ratios = [
            statistics.median(a / b for a, b in zip(rows["ours"][count], figures[count], strict=True))
            for count in (1, 4)
        ]
        lines.append(
            f"| {name} | {spread(figures[1], '.0f')} | {ratios[0]:.2f} | {spread(figures[4], '.0f')} "
            f"| {ratios[1]:.2f} |"
        )
    return "\n".join(
        [*lines, "", f"Resident memory of our SCP after the transfer: {spread(memory, '.0f')} MiB."]
    )


class _our_scp:  # noqa: N801 (a context manager)
    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> tuple[int, psutil.Process]:
        self.home.mkdir(parents=True)
        port = peers.free_port()
        environment = peers.FAST_TCP | {
            "AGATSTON_HOME": str(self.home),
            "AGATSTON_DICOM_PORT": str(port),
            "AGATSTON_SERIES_IDLE_SECONDS": "600",
            "AGATSTON_SERIES_RELEASE_SECONDS": "600",
        }
        agatston = [sys.executable, "-m", "service.cli"]
        subprocess.run([*agatston, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
        self.running = peers.running([*agatston, "scp"], port=port, env=environment)
        return port, psutil.Process(self.running.__enter__().pid)

    def __exit__(self, *problem: object) -> None:
        self.running.__exit__(None, None, None)


def reading(work: Path, runs: int) -> str:
    """Read 300 slices into a volume: ours against SimpleITK's series reader."""
    import SimpleITK  # noqa: PLC0415

    from calcium.series import read_series  # noqa: PLC0415

    lines = [
        "## Reading a series into HU",
        f"{IMAGES} slices of 512 x 512, files in the page cache; ours also checks every geometric fault.",
        "",
        "| transfer syntax | ours, s | SimpleITK, s | ratio ours / SimpleITK |",
        "| --- | --- | --- | --- |",
    ]
    scan = scan_of(IMAGES)
    from models.training.phantom import write_dicom  # noqa: PLC0415

    for syntax in ("explicit", "deflated", "rle", "jpeg-ls", "jpeg-lossless", "jpeg-2000"):
        try:
            paths = write_dicom(scan, work / syntax, transfer_syntax=syntax)
        except (KeyError, ValueError):
            continue
        ours = [timed(lambda paths=paths: read_series(paths)) for _ in range(runs)]
        names = [str(path) for path in paths]
        try:
            theirs = [timed(lambda names=names: SimpleITK.ReadImage(names)) for _ in range(runs)]
        except RuntimeError:
            lines.append(f"| {syntax} | {spread(ours)} | cannot | |")
            continue
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        lines.append(f"| {syntax} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} |")
    return "\n".join(lines)


def scoring(work: Path, runs: int) -> str:
    """Score an 80-slice and a 300-slice series in a warm process: seconds by stage, memory."""
    from calcium.series import read_series  # noqa: PLC0415
    from models.options import ScoringOptions  # noqa: PLC0415
    from models.pipeline import score_files  # noqa: PLC0415
    from models.scoring import Scorer  # noqa: PLC0415

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker:
        # As in a worker, the process that is measured never simulated anything.
        written = {
            slices: maker.submit(_written, slices, work / f"scan{slices}").result() for slices in (80, 300)
        }
    chosen = {name: value for name, value in os.environ.items() if name == "AGATSTON_WEIGHTS"}
    scorer = Scorer.load(ScoringOptions.read(chosen))
    stages: dict[str, dict[int, list[float]]] = {}
    ratios: dict[int, list[float]] = {}
    for slices, paths in written.items():
        score_files(paths, scorer)  # warm
        for _ in range(runs):
            outcome = score_files(paths, scorer)
            if outcome.result is None or outcome.series is None:
                raise RuntimeError(f"the benchmark's scan was not scored: {outcome.reason}")
            peer = timed(lambda paths=paths: read_series(paths))
            ratios.setdefault(slices, []).append(sum(outcome.seconds.values()) / peer)
            for stage, seconds in outcome.seconds.items():
                stages.setdefault(stage, {}).setdefault(slices, []).append(seconds)
    lines = [
        "## Scoring, in a warm process",
        f"Simulated scans of 512 x 512, weights {scorer.weights.identity.version}, on the CPU.",
        "",
        "| stage | 80 slices, s | 300 slices, s |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {stage} | {spread(at[80])} | {spread(at[300])} |"
        for stage, at in stages.items()
        if 80 in at and 300 in at
    ]
    lines.append(f"| all, as a ratio to reading alone | {spread(ratios[80])} | {spread(ratios[300])} |")
    peak = _peak_mib([sys.executable, "-m", "service.cli", "score", "--json", str(work / "scan300")])
    return "\n".join([*lines, "", f"Peak memory of `agatston score` on the 300 slices: {peak:.0f} MiB."])


# A process begins with its parent's memory, so that a small one has to start what is measured.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak_mib(command: list[str]) -> float:
    ended = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True, text=True)
    return int(ended.stdout) / 1024


def starting(work: Path, runs: int) -> str:
    """Time `agatston --help` against an empty Python."""
    empty = [timed(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(runs)]
    command = [sys.executable, "-m", "service.cli", "--help"]
    ours = [timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(runs)]
    ratio = statistics.median(a / b for a, b in zip(ours, empty, strict=True))
    return (
        "## Starting\n`agatston --help`: "
        f"{spread(ours)} s, {ratio:.1f} times an empty Python ({spread(empty)} s)."
    )


SECTIONS: dict[str, Section] = {
    "starting": starting,
    "ingest": ingest,
    "reading": reading,
    "scoring": scoring,
    "objects": objects,
}
