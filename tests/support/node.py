"""A whole node under test: `agatston up` as a child process, with its own home and free ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import peers
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_SECONDS = 60
JOB_SECONDS = 150
TERMINAL = {"scored", "not_eligible", "failed", "quarantined", "cancelled"}


@dataclass
class Node:
    """A running node."""

    process: subprocess.Popen[bytes]
    home: Path
    dicom_port: int
    http_port: int
    log: Path

    def get(self, path: str) -> Any:
        """GET a path of the API and parse the JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=20) as answer:
            return json.load(answer)

    def ready(self) -> bool:
        """Tell whether /health/ready answers 200."""
        try:
            self.get("/health/ready")
        except (OSError, urllib.error.HTTPError, json.JSONDecodeError):
            return False
        return True

    def jobs(self) -> list[dict[str, Any]]:
        """Return the newest jobs as the API lists them."""
        return list(self.get("/api/v1/jobs")["jobs"])

    def wait_for_jobs(self, count: int = 1, *, seconds: float = JOB_SECONDS) -> list[dict[str, Any]]:
        """Wait until `count` jobs have ended and return them."""

        def ended() -> list[dict[str, Any]]:
            jobs = [job for job in self.jobs() if job["state"] in TERMINAL]
            return jobs if len(jobs) >= count else []

        return peers.wait_for(ended, seconds=seconds, what=f"the end of {count} jobs; see {self.log}")  # type: ignore[return-value]

    def power_cut(self) -> None:
        """Kill -9 the supervisor and, in the same moment, all its children."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()

    def kill(self) -> None:
        """Kill -9 the supervisor alone; its children must follow by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_node(home: Path, *, ready: bool = True, **settings: object) -> Iterator[Node]:
    """Run `agatston up` until the block ends; settings are AGATSTON_* by their lower-case names."""
    home.mkdir(parents=True, exist_ok=True)
    dicom_port = int(settings.pop("dicom_port", None) or peers.free_port())  # type: ignore[call-overload]
    http_port = int(settings.pop("http_port", None) or peers.free_port())  # type: ignore[call-overload]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AGATSTON_")}
    environment |= {
        "AGATSTON_HOME": str(home),
        "AGATSTON_DICOM_PORT": str(dicom_port),
        "AGATSTON_HTTP_PORT": str(http_port),
        **{f"AGATSTON_{name.upper()}": str(value) for name, value in settings.items()},
    }
    log = home / "up.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "up"],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        node = Node(process, home, dicom_port, http_port, log)
        try:
            if ready:
                peers.wait_for(
                    lambda: process.poll() is not None or node.ready(),
                    seconds=START_SECONDS, what=f"a ready node; see {log}",
                )  # fmt: skip
                assert process.poll() is None, log.read_text(encoding="utf-8")[-4000:]
            yield node
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
