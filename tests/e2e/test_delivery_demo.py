"""`agatston demo`: the whole way of a simulated scan, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pydicom
import pytest
import sr_reader

from calcium.errors import WeightsError
from models.weightset import find

DEMO_SECONDS = 280


def demo(tmp_path, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "demo", "--out", str(tmp_path / "out"), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False,
    )  # fmt: skip


def test_the_demo_brings_a_report_back(tmp_path):
    try:
        find(None)
    except WeightsError:
        pytest.skip("no bundled default weights")
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = sr_reader.read(pydicom.dcmread(tmp_path / "out" / "report.dcm"))
    score = report.totals.numbers["SCT", "450360000"]
    assert f"predicted Agatston score  {score:.1f}" in done.stdout
    assert "research use" in done.stdout
    assert (tmp_path / "out" / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_a_demo_that_cannot_work_says_why(tmp_path):
    done = demo(tmp_path, AGATSTON_WEIGHTS=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "no weights at" in done.stderr
    assert "agatston demo:" in done.stderr
