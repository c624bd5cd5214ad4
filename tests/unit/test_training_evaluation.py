"""The paper's tables from plain records."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from models.training.evaluation import (
    ScanRecord,
    agreement,
    attention_shares,
    breakdown,
    interval_coverage,
    stays_without_calcium,
)
from models.training.evaluation_report import BREAKDOWNS, table_1, table_2, write


def _records() -> list[ScanRecord]:
    rng = np.random.default_rng(2)
    records = []
    for index in range(40):
        agatston = 0.0 if index % 4 == 0 else float(rng.lognormal(4, 1.5))
        records.append(
            ScanRecord(
                name=f"s{index}",
                patient=f"s{index}",
                origin="simulated",
                agatston=agatston,
                volume_mm3=agatston * 0.8,
                predicted_agatston={"default": agatston * 1.02, "i": agatston + 3},
                predicted_volume_mm3={"default": agatston * 0.8, "i": agatston},
                interval=(agatston * 0.8, agatston * (1.2 if index else 0.9)) if index else (1.0, 2.0),
                attention=(0.9, 0.1) if agatston else None,
                description={
                    "kernel": "sharp" if index % 2 else "soft",
                    "noise_hu": 10.0 + index,
                    "non_coronary_mm3": 100.0 if index % 8 == 0 else 0.0,
                },
            )
        )
    return records


def test_figures_of_each_network():
    records = _records()
    default, shifted = agreement(records, "default", "agatston"), agreement(records, "i", "agatston")
    assert default is not None
    assert shifted is not None
    assert default.icc.value > 0.99
    assert default.accuracy is not None
    assert default.accuracy.value > 0.9
    assert shifted.confusion is not None
    assert shifted.confusion[0, 0] == 0  # 0 became 3: no scan stays very low
    assert shifted.confusion[0, 1] == 10
    assert agreement(records, "absent", "agatston") is None


def test_scans_with_only_other_calcium_are_counted():
    assert stays_without_calcium(_records(), "default").value == 1
    assert stays_without_calcium(_records(), "i").value == 0


def test_coverage_and_attention():
    records = _records()
    assert interval_coverage(records).value == 39 / 40
    near, other, count = attention_shares(records)
    assert (near, other, count) == (pytest.approx(0.9), pytest.approx(0.1), 30)


def test_breakdowns_by_word_and_by_number():
    assert set(breakdown(_records(), "default", BREAKDOWNS["Kernel"])) == {"sharp", "soft"}
    noise = breakdown(_records(), "default", BREAKDOWNS["Noise in the heart"])
    assert list(noise) == ["20 to 30 HU", "30 to 40 HU", "40 to 60 HU", "below 20 HU"]
    assert noise["below 20 HU"].scans == 10


def test_files(tmp_path: Path):
    records = _records()
    text = write(records, tmp_path, "40 made-up records").read_text()
    assert table_1(records) in text
    assert table_2(records) in text
    assert "### Kernel" in text
    assert (tmp_path / "agreement.png").stat().st_size > 10_000
    rows = list(csv.DictReader((tmp_path / "scans.csv").read_text().splitlines()))
    assert len(rows) == 40
    assert float(rows[1]["agatston:i"]) == float(rows[1]["agatston"]) + 3
