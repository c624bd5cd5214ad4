"""`agatston demo`: the whole way of a scan, on this machine, with nothing set up before.

A node starts on embedded defaults; a simulated scan with a known reference score is pushed to it by C-STORE,
as a scanner does; an archive of our own receives the report; and what it says is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess  # nosec B404 (our own interpreter and module)
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from calcium.errors import AgatstonError
from service import scu
from service.supervisor import PARENT_FD

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

SEED = 5  # of the simulated scan
REFERENCE = "moderately high"  # its coronary calcium
THICKNESS_MM = 3.0
START_SECONDS, SCORE_SECONDS, END_SECONDS = 90.0, 240.0, 40.0
POLL_SECONDS = 0.25
REPORTS = {str(Comprehensive3DSRStorage), str(ComprehensiveSRStorage)}
ENDED_BADLY = {"failed", "not_eligible", "quarantined", "cancelled"}
LOG_LINES = 15  # of the node's log that are shown when the demo fails


class DemoError(AgatstonError):
    """The demo did not come to its end; says where."""

    code = "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder of what the archive receives (default: out/demo)",
    )
    parser.add_argument("--home", type=Path, help="folder of the node's state; kept (default: a temporary one)")
    parser.add_argument("--series", type=Path, help="folder of a CT series to send instead of a simulated scan")
    parser.add_argument("--keep", action="store_true", help="leave the node running until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when the report came back."""
    _check_weights()
    with contextlib.ExitStack() as stack:
        home = args.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agatston-demo-")))
        home = home.expanduser().absolute()
        archive = stack.enter_context(_archive(args.out.absolute()))
        node = stack.enter_context(_node(home, archive))
        stack.enter_context(_last_words(node))
        _say(f"starting a node in {home}")
        folder, reference = _scan(args.series, home)
        _wait(lambda: _ready(node), START_SECONDS, "the node to start", node)
        files = sorted(path for path in folder.rglob("*.dcm") if path.is_file())
        started = time.monotonic()
        _send(node, files)
        _say(f"sent {len(files)} slices to AGATSTON@127.0.0.1:{node.dicom_port} as a scanner would")
        _wait(lambda: _done(node, archive), SCORE_SECONDS, "the report to reach the archive", node)
        _tell(node, archive, reference, time.monotonic() - started)
        if args.keep:
            _say(f"the node runs on: http://127.0.0.1:{node.http_port}/ (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                node.process.wait()
    return 0


def _check_weights() -> None:
    """Say at once that weights are missing, and not after the node has waited for its worker."""
    from models.weightset import find  # noqa: PLC0415 (draws torch in)

    find(os.environ.get("AGATSTON_WEIGHTS"))


@dataclass
class _Archive:
    """Our own small PACS: it writes what it receives into a folder."""

    folder: Path
    port: int
    received: dict[str, Path] = field(default_factory=dict)  # SOP class -> file

    def store(self, event: Any) -> int:
        """Answer one C-STORE; 0000 once the file is written."""
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        kind = "report" if dataset.SOPClassUID in REPORTS else "summary"
        path = self.folder / f"{kind}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        if dataset.SOPClassUID == SecondaryCaptureImageStorage:
            _picture(dataset, self.folder / "summary.png")
        self.received[kind] = path
        return 0x0000


def _picture(dataset: Dataset, path: Path) -> None:
    from PIL import Image  # noqa: PLC0415 (only the demo shows pixels outside DICOM)

    Image.fromarray(dataset.pixel_array).save(path)


@contextlib.contextmanager
def _archive(folder: Path) -> Iterator[_Archive]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.dcm", "summary.dcm", "summary.png"):  # of an earlier demo
        (folder / name).unlink(missing_ok=True)
    archive = _Archive(folder, _free_port())
    entity = AE(ae_title="DEMOPACS")
    for sop_class in (*REPORTS, str(SecondaryCaptureImageStorage)):
        entity.add_supported_context(sop_class)
    server = entity.start_server(
        ("127.0.0.1", archive.port), block=False, evt_handlers=[(evt.EVT_C_STORE, archive.store)]
    )
    try:
        yield archive
    finally:
        server.shutdown()


@dataclass
class _Node:
    """The node under demonstration."""

    process: subprocess.Popen[bytes]
    dicom_port: int
    http_port: int
    log: Path

    def get(self, path: str) -> Any:
        """GET a path of its API."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # nosec B310 (our own http)
            return json.load(answer)


@contextlib.contextmanager
def _node(home: Path, archive: _Archive) -> Iterator[_Node]:
    """Run `agatston up` on embedded defaults, whatever the caller's own settings are."""
    home.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = _free_port(), _free_port()
    kept = {"AGATSTON_WEIGHTS", "AGATSTON_DEVICE", "AGATSTON_THREADS"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("AGATSTON_") or name in kept
    }
    environment |= {
        "AGATSTON_HOME": str(home),
        "AGATSTON_DICOM_PORT": str(dicom_port),
        "AGATSTON_HTTP_PORT": str(http_port),
        "AGATSTON_PACS": f"DEMOPACS@127.0.0.1:{archive.port}",
        "AGATSTON_SERIES_RELEASE_SECONDS": "1",
    }
    # The node holds the read end of a pipe and ends with us, however we end (service.supervised).
    read_end, write_end = os.pipe()
    environment[PARENT_FD] = str(read_end)
    log = home / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # nosec B603 (our own interpreter and module)
            [sys.executable, "-m", "service.supervised", "up"],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
            pass_fds=(read_end,), start_new_session=True,
        )  # fmt: skip
        try:
            yield _Node(process, dicom_port, http_port, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(write_end)
            os.close(read_end)


def _scan(series: Path | None, home: Path) -> tuple[Path, float | None]:
    """Return the folder of the slices to send, and their reference score where it is known."""
    if series is not None:
        if not series.is_dir():
            raise DemoError(f"--series {series} is no folder")
        return series, None
    from models.training.phantom import PhantomConfig, make_scan, write_dicom  # noqa: PLC0415 (slow to import)

    folder = home / "simulated-scan"
    shutil.rmtree(folder, ignore_errors=True)
    scan = make_scan(SEED, config=PhantomConfig(calcium=REFERENCE, thickness_mm=THICKNESS_MM))
    write_dicom(scan, folder)
    _say(f"simulated a chest CT with a reference Agatston score of {scan.agatston:.0f}")
    return folder, scan.agatston


def _send(node: _Node, files: list[Path]) -> None:
    if not files:
        raise DemoError("there are no .dcm files to send")
    peer = scu.Peer("AGATSTON", "127.0.0.1", node.dicom_port)
    refused = [outcome for outcome in scu.store(peer, files, calling_ae="DEMOSCANNER") if not outcome.stored]
    if refused:
        raise DemoError(
            f"the node took {len(files) - len(refused)} of {len(files)} slices: {refused[0].comment}"
        )


def _ready(node: _Node) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(node.get("/health/ready"))
    return False


def _done(node: _Node, archive: _Archive) -> bool:
    """Tell whether report and picture are here; a job that ended without them is an error."""
    if {"report", "summary"} <= set(archive.received):
        return True
    with contextlib.suppress(OSError, ValueError):
        for job in node.get("/api/v1/jobs")["jobs"]:
            if job["state"] in ENDED_BADLY:
                raise DemoError(f"the scan got no score: {job['state']}, {job['reason']}")
    return False


def _wait(condition: Callable[[], bool], seconds: float, what: str, node: _Node) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if node.process.poll() is not None:
            raise DemoError(f"the node ended with {node.process.returncode} while waiting for {what}")
        if time.monotonic() > end:
            raise DemoError(f"waited {seconds:.0f} s for {what}")
        threading.Event().wait(POLL_SECONDS)


@contextlib.contextmanager
def _last_words(node: _Node) -> Iterator[None]:
    """Show the end of the node's log when the demo fails: a temporary home is gone afterwards."""
    try:
        yield
    except AgatstonError:
        lines = node.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if " api: GET " not in line][-LOG_LINES:]
        print("\n".join(["the node's last words:", *("  " + line for line in told)]), file=sys.stderr)
        raise


def _tell(node: _Node, archive: _Archive, reference: float | None, seconds: float) -> None:
    (job,) = (job for job in node.get("/api/v1/jobs")["jobs"] if job["state"] == "scored")
    report = dcmread(archive.received["report"])
    lines = [
        f"the report came back after {seconds:.1f} s:",
        f"  predicted Agatston score  {job['agatston']:.1f}"
        + (f"   (reference of the simulated scan: {reference:.1f})" if reference is not None else ""),
        f"  risk group                {job['risk_group']}",
        f"  report                    {archive.received['report']}",
        f"                            {report.SOPClassUID.name}, {report.VerificationFlag.lower()}",
        f"  picture                   {archive.folder / 'summary.png'}",
        "AI estimate: research use, not for diagnosis.",
        "Look: dsr2html (dcmtk) renders the report; `agatston demo --keep` leaves the status page open.",
    ]
    _say("\n".join(lines))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    print(text, flush=True)
