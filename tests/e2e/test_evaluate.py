"""`agatston evaluate`: all bundled networks on cached scans, by one process or several."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.training import cache, dataset
from service.cli import main


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed in (1, 2):
        task = dataset.SimulatedTask(seed, "heart", "sketch")
        cache.save(dataset.case_of(task), folder)
    return folder


def test_all_networks_are_compared_and_several_processes_find_what_one_finds(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGATSTON_HOME", str(tmp_path))
    rows = []
    for processes in ("1", "2"):
        out = tmp_path / processes
        command = ["evaluate", "--cache", str(scans), "--all-networks", "--out", str(out), "--quiet"]
        assert main([*command, "--processes", processes, "--pictures", "1"]) == 0
        report = next(out.glob("*.md")).read_text()
        for experiment in ("i (separate kernels, y)", "iv (shared kernels, ln(y + 1))"):
            assert experiment in report
        rows.append(next(out.glob("*.csv")).read_text().splitlines())
    assert len(rows[0]) == 1 + 2
    assert rows[0][0] == rows[1][0]
    for one, two in zip(rows[0][1:], rows[1][1:], strict=True):
        for first, second in zip(one.split(","), two.split(","), strict=True):
            try:
                assert float(second) == pytest.approx(float(first), rel=1e-3, abs=1e-3)
            except ValueError:
                assert second == first
