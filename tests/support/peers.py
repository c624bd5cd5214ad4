"""Real peers for the tests: dcmtk, dicom3tools, Orthanc, Redis, Chromium; each skips by name when absent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# dcmtk and Orthanc wait 40 ms for each packet on loopback unless Nagle's algorithm is off.
FAST_TCP = {**os.environ, "TCP_NODELAY": "1"}


def program(name: str) -> str:
    """Return the path of a peer's program, or skip the test by its name.

    With AGATSTON_TEST_ALL_PEERS=1 (as in CI) a missing peer is a failure.
    """
    path = shutil.which(name)
    if path is None:
        if os.environ.get("AGATSTON_TEST_ALL_PEERS") == "1":
            pytest.fail(f"{name} is not installed, and AGATSTON_TEST_ALL_PEERS=1 allows no skip")
        pytest.skip(f"{name} is not installed")
    return path


def free_port() -> int:
    """Return a TCP port that is free on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], *, seconds: float = 20, what: str = "the condition") -> object:
    """Return the first true value of `condition`, asked every 50 ms; fail after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"{what} did not come true within {seconds} s")


def listens(port: int) -> bool:
    """Tell whether something accepts connections on a loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(
    command: list[str], *, port: int | None = None, **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; wait first until it listens on `port`."""
    options.setdefault("env", FAST_TCP)
    options.setdefault("stdout", subprocess.DEVNULL)
    options.setdefault("stderr", subprocess.DEVNULL)
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        if port is not None:
            wait_for(lambda: process.poll() is not None or listens(port), what=f"{command[0]} on port {port}")
            assert process.poll() is None, f"{command[0]} ended at once with {process.returncode}"
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class DicomPeer:
    """Where a DICOM peer listens."""

    aet: str
    port: int
    folder: Path
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        """The form that AGATSTON_PACS takes: AET@host:port."""
        return f"{self.aet}@{self.host}:{self.port}"


@contextlib.contextmanager
def storescp(folder: Path, *options: str, aet: str = "STORESCP") -> Iterator[DicomPeer]:
    """Run dcmtk's storescp, which writes what it receives into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [program("storescp"), "-aet", aet, "-od", str(folder), *options, str(port)]
    with running(command, port=port):
        yield DicomPeer(aet, port, folder)


@dataclass(frozen=True)
class Orthanc(DicomPeer):
    """A running Orthanc."""

    http_port: int = 0

    @property
    def web(self) -> str:
        """The base address of its DICOMweb services."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def get(self, path: str) -> object:
        """GET a path of its REST API and parse the JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: object) -> object:
        """POST JSON to its REST API and parse the answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", data=json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def download(self, instance_id: str) -> bytes:
        """Return the DICOM file of an instance."""
        url = f"http://127.0.0.1:{self.http_port}/instances/{instance_id}/file"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()


def dicomweb_plugin() -> Path:
    """Return Orthanc's DICOMweb plugin (Debian: orthanc-dicomweb), or skip by name, as `program`."""
    folders = [
        Path("/usr/share/orthanc/plugins"),
        Path("/usr/lib/orthanc"),
        Path("/usr/local/share/orthanc/plugins"),
    ]
    for folder in folders:
        for path in sorted(folder.glob("libOrthancDicomWeb.so*")):
            return path
    if os.environ.get("AGATSTON_TEST_ALL_PEERS") == "1":
        pytest.fail("orthanc-dicomweb is not installed, and AGATSTON_TEST_ALL_PEERS=1 allows no skip")
    pytest.skip("orthanc-dicomweb is not installed")


@contextlib.contextmanager
def orthanc(
    folder: Path,
    *,
    modalities: dict[str, tuple[str, str, int]] | None = None,
    aet: str = "ORTHANC",
    dicomweb: bool = False,
    dimse: bool = True,
    users: dict[str, str] | None = None,
) -> Iterator[Orthanc]:
    """Run Orthanc with its own storage.

    `modalities`: {name: (AET, host, port)}, for C-MOVE and commitment. `dicomweb`: with its plugin. `dimse`:
    with its DICOM port. `users`: {name: password} of its HTTP server, which then answers nobody else.
    """
    plugins = [str(dicomweb_plugin())] if dicomweb else []
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    settings = {
        "Name": "test archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomAet": aet,
        "DicomServerEnabled": dimse,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomAlwaysAllowGet": True,
        "HttpPort": http_port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": bool(users),
        "RegisteredUsers": users or {},
        "DicomModalities": {name: list(value) for name, value in (modalities or {}).items()},
        "StableAge": 1,
        "Plugins": plugins,
        "DicomWeb": {"Enable": dicomweb, "Root": "/dicom-web/"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with running([program("Orthanc"), str(path)], port=http_port):
        if dimse:
            wait_for(lambda: listens(dicom_port), what="Orthanc's DICOM port")
        yield Orthanc(aet, dicom_port, folder, http_port=http_port)


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server and give its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes"]
    with running(command, port=port):
        yield f"redis://127.0.0.1:{port}/0"


def storescu(peer_port: int, *paths: Path, options: tuple[str, ...] = (), called: str = "AGATSTON") -> None:
    """Send files or folders by dcmtk's storescu; fails the test when it fails."""
    command = [program("storescu"), "-aet", "SCANNER", "-aec", called, "+sd", "+r", "+sp", "*.dcm", *options]
    done = subprocess.run(
        [*command, "127.0.0.1", str(peer_port), *map(str, paths)],
        env=FAST_TCP, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def chromium() -> str:
    """Return the path of Chromium, or skip by name."""
    return program("chromium")
