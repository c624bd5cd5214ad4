"""A million hostile inputs, found by coverage (atheris): no exception, no crash, no hang, bounded memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has no wheel for this platform")

REPOSITORY = Path(__file__).resolve().parents[2]
MEMORY = Path("/dev/shm")  # files of a kilobyte, thousands a second
SEED = int(os.environ.get("AGATSTON_FUZZ_SEED", "1"))
# Cheap targets get most inputs; AGATSTON_FUZZ_FACTOR makes a campaign longer or shorter.
INPUTS = {
    "head": 600_000,
    "codestream": 250_000,
    "decoder": 150_000,
    "store": 50_000,
    "commitment": 20_000,
    "header": 30_000,
    "volume": 15_000,
    "port": 2_000,
}
FACTOR = float(os.environ.get("AGATSTON_FUZZ_FACTOR", "1"))
FIGURES = {
    "inputs": r"stat::number_of_executed_units:\s*(\d+)",
    "a second": r"stat::average_exec_per_sec:\s*(\d+)",
    "edges": r"cov: (\d+) (?!.*cov: )",
    "slowest s": r"stat::slowest_unit_time_sec:\s*(\d+)",
    "MiB": r"stat::peak_rss_mb:\s*(\d+)",
}


def campaign(target, folder):
    """Fuzz one target in a process of its own; return its figures."""
    command = [
        sys.executable, "-W", "ignore", "-m", "tests.fuzz", target,
        "--inputs", str(round(INPUTS[target] * FACTOR)), "--seed", str(SEED), "--artefacts", str(folder),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        done = subprocess.run(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            timeout=7000, env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": scratch},
        )  # fmt: skip
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-4000:]
    return {name: int(re.findall(pattern, said, re.DOTALL)[-1]) for name, pattern in FIGURES.items()}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_hostile_inputs(tmp_path):
    found = {}
    for target in INPUTS:
        found[target] = campaign(target, tmp_path)
        print(f"seed {SEED}, {target}: {found[target]}", flush=True)  # noqa: T201 (a figure)
    total = sum(figures["inputs"] for figures in found.values())
    print(f"{total} inputs in all")  # noqa: T201 (a figure)
    assert total >= 1_000_000 * FACTOR
