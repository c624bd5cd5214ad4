"""kill -9 of `agatston up`: its children follow, and the next start goes on where it ended."""

from __future__ import annotations

import os
import subprocess
import sys

import node
import peers
import psutil
from receiving import ct_series, write_all
from sqlalchemy import func, select

from service.database import Database
from service.tables import Instance


def test_what_was_acknowledged_survives_and_nothing_is_left_behind(tmp_path):
    home = tmp_path / "home"
    files = write_all(tmp_path / "files", ct_series(20, size=64))
    port = peers.free_port()
    with node.running_node(home, ready=False, dicom_port=port, series_idle_seconds=60) as first:
        peers.wait_for(lambda: peers.listens(port), seconds=90, what="the SCP")
        peers.storescu(port, files, options=("-xe",))
        children = psutil.Process(first.process.pid).children(recursive=True)
        assert children
        first.kill()
        peers.wait_for(lambda: not any(child.is_running() for child in children), seconds=60, what="their end")
    with node.running_node(home, ready=False, dicom_port=port, series_idle_seconds=60):
        peers.wait_for(lambda: peers.listens(port), seconds=90, what="the SCP again")
        peers.storescu(port, files, options=("-xe",))  # every slice is a duplicate
    database = Database(f"sqlite:///{home / 'agatston.db'}")
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == 20
    database.dispose()


def test_a_second_node_on_the_same_home_says_so(tmp_path):
    with node.running_node(tmp_path, ready=False) as first:
        peers.wait_for((tmp_path / "agatston.db").exists, seconds=60, what="the first node")
        second = subprocess.run(
            [sys.executable, "-m", "service.cli", "up"],
            env={**os.environ, "AGATSTON_HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert "another `agatston up`" in second.stderr
        assert first.process.poll() is None


def test_an_open_port_without_peers_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "up"],
        env={**os.environ, "AGATSTON_HOME": str(tmp_path), "AGATSTON_DICOM_HOST": "0.0.0.0"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "AGATSTON_ALLOW_ANY_PEER" in done.stderr
