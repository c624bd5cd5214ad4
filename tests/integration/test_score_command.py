"""`agatston score` as a child process: real DICOM files, hand-made weights, JSON on standard output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dicom_series
import hand_made
import numpy as np
import pytest

from calcium.agatston import score_mask
from calcium.errors import ResourcesError
from calcium.series import read_series
from models.options import ScoringOptions
from models.pipeline import score_files
from models.scoring import Scorer
from models.weightset import DEFAULT, find

KEYS = {
    "series_instance_uid", "status", "reason", "agatston", "volume_mm3", "risk_group", "heart_box_mm",
    "slice_scores", "warnings", "seconds", "weights",
}  # fmt: skip
UNKNOWN = ("agatston", "volume_mm3", "risk_group", "heart_box_mm", "slice_scores")
SECRET = "Secret^Name"


def write_phantom(folder: Path, **elements: Any) -> list[Path]:
    """Write the hand-made phantom as a CT series."""
    volume = hand_made.phantom(shape=(100, 150, 170))
    x, y, z = volume.geometry.origin_mm
    return dicom_series.write(
        dicom_series.series(
            volume.hu, z0=z, increment=1.5, thickness=3.0, spacing=(1.0, 1.0), origin=(x, y),
            **({"PatientName": SECRET} | elements),
        ),
        folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_made.save(tmp_path_factory.mktemp("weights"))


def score(*arguments: object, weights: Path | str, home: Path, **settings: str) -> tuple[int, str, str]:
    """Run the command and return exit code, standard output and standard error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AGATSTON_")}
    environment |= {
        "AGATSTON_HOME": str(home),
        "AGATSTON_WEIGHTS": str(weights),
        "AGATSTON_DEVICE": "cpu",
    } | settings
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "score", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_series_becomes_one_object(tmp_path: Path, weights: Path):
    paths = write_phantom(tmp_path / "series")
    code, output, errors = score(tmp_path / "series", "--json", weights=weights, home=tmp_path)
    assert code == 0, errors
    (line,) = map(json.loads, output.splitlines())
    assert set(line) >= KEYS
    assert line["status"] == "scored"
    assert line["reason"] is None
    assert line["series_instance_uid"] == dicom_series.SERIES_UID
    series = read_series(paths)
    result = Scorer.load(ScoringOptions(weights=str(weights), device="cpu")).score(series.volume)
    reference = score_mask(result.resampled, np.ones(result.resampled.hu.shape, bool))
    assert line["agatston"] == pytest.approx(reference.agatston, abs=0.1)
    assert line["volume_mm3"] == pytest.approx(reference.volume_mm3, abs=0.1)
    assert line["risk_group"] == result.risk_group.label
    low, high = line["heart_box_mm"]
    assert low == pytest.approx(hand_made.HEART.low, abs=4)
    assert high == pytest.approx(hand_made.HEART.high, abs=4)
    total = sum(one["agatston"] for one in line["slice_scores"]) * 1.5 / 3.0
    assert total == pytest.approx(line["agatston"], abs=0.1)
    assert [one["z_mm"] for one in line["slice_scores"]] == sorted(one["z_mm"] for one in line["slice_scores"])
    assert line["weights"]["name"] == "hand-made"
    assert line["seconds"] > 0
    assert not any(warning.startswith("above_bound") for warning in line["warnings"])
    assert "Secret" not in output + errors
    assert not (tmp_path / "agatston.db").exists()  # needs no node: writes nothing
    assert {path.name for path in tmp_path.iterdir()} == {"series"}


def test_what_gets_no_score_has_null_and_a_reason(tmp_path: Path, weights: Path):
    uid = f"{dicom_series.ROOT}.20"
    write_phantom(tmp_path / "a" / "enhanced", ContrastBolusAgent="Omnipaque", SeriesInstanceUID=uid)
    write_phantom(tmp_path / "a" / "plain")
    (tmp_path / "a" / "notes.txt").write_text("not DICOM, and not asked for")
    code, output, errors = score(tmp_path / "a", "--json", weights=weights, home=tmp_path)
    assert code == 0, errors
    lines = {line["series_instance_uid"]: line for line in map(json.loads, output.splitlines())}
    assert set(lines) == {uid, dicom_series.SERIES_UID}
    assert lines[dicom_series.SERIES_UID]["status"] == "scored"
    refused = lines[uid]
    assert refused["status"] == "not_eligible"
    assert refused["reason_code"] == "contrast_enhanced"
    assert "contrast" in refused["reason"]
    assert [refused[key] for key in UNKNOWN] == [None] * len(UNKNOWN)
    assert refused["warnings"] == []


def test_what_cannot_be_read_fails(tmp_path: Path, weights: Path):
    paths = write_phantom(tmp_path / "gap")
    paths[40].unlink()
    other = tmp_path / "notes.txt"
    other.write_text("not DICOM")
    code, output, _ = score(tmp_path / "gap", other, "--json", weights=weights, home=tmp_path)
    assert code == 1
    lines = [json.loads(line) for line in output.splitlines()]
    by_uid = {line["series_instance_uid"]: line for line in lines}
    assert by_uid[None]["status"] == "failed"
    assert "notes.txt" in by_uid[None]["reason"]
    broken = by_uid[dicom_series.SERIES_UID]
    assert broken["status"] == "failed"
    assert broken["reason_code"] == "missing_slices"
    assert [broken[key] for key in UNKNOWN] == [None] * len(UNKNOWN)


def test_people_get_words(tmp_path: Path, weights: Path):
    write_phantom(tmp_path / "series")
    code, output, _ = score(tmp_path / "series", weights=weights, home=tmp_path)
    assert code == 0
    assert "predicted Agatston score" in output
    assert "research use, not for diagnosis" in output
    assert "Secret" not in output


def test_wrong_use_is_told_apart_from_a_failed_series(tmp_path: Path, weights: Path):
    assert score(tmp_path / "absent", weights=weights, home=tmp_path)[0] == 2
    code, _, errors = score(tmp_path, weights=tmp_path / "none", home=tmp_path)
    assert code == 1
    assert "AGATSTON_WEIGHTS" in errors
    (tmp_path / "empty").mkdir()
    code, output, errors = score(tmp_path / "empty", "--json", weights=weights, home=tmp_path)
    assert (code, output) == (1, "")
    assert "no DICOM files" in errors


def test_a_site_may_raise_the_limit_of_thickness(tmp_path: Path, weights: Path):
    volume = hand_made.phantom(shape=(100, 150, 170))
    x, y, z = volume.geometry.origin_mm
    thick = dicom_series.series(
        volume.hu[::3], z0=z, increment=4.5, thickness=4.5, spacing=(1.0, 1.0), origin=(x, y)
    )
    dicom_series.write(thick, tmp_path / "thick")
    scorer = Scorer.load(ScoringOptions(weights=str(weights), device="cpu"))
    paths = sorted((tmp_path / "thick").iterdir())
    refused = score_files(paths, scorer)
    assert (refused.status, refused.reason_code, refused.result) == ("not_eligible", "too_thick", None)
    code, output, errors = score(
        tmp_path / "thick", "--json", weights=weights, home=tmp_path, AGATSTON_MAX_SLICE_THICKNESS_MM="5"
    )
    assert code == 0, errors
    line = json.loads(output)
    assert line["status"] == "scored"
    assert any(warning.startswith("thick_slices: ") for warning in line["warnings"])


def test_the_pipeline_tells_stages_and_lets_a_lack_of_memory_through(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    paths = write_phantom(tmp_path / "series")
    scorer = Scorer.load(ScoringOptions(weights=str(weights), device="cpu"))
    outcome = score_files(paths[::-1], scorer)
    assert outcome.status == "scored"
    assert outcome.series is not None
    assert outcome.series.series_instance_uid == outcome.series_instance_uid
    assert set(outcome.seconds) == {"headers", "read", "resample", "localise", "check", "score"}

    def exhausted(_: object) -> None:
        raise ResourcesError("out of memory")

    monkeypatch.setattr(scorer, "score", exhausted)
    with pytest.raises(ResourcesError):
        score_files(paths, scorer)


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("name", "code"), [("lidc-0001-contrast", "contrast_enhanced"), ("lungdx-a0001-5mm", "too_thick")]
)
def test_real_series_that_are_not_eligible(real_ct: Path, weights: Path, name: str, code: str):
    scorer = Scorer.load(ScoringOptions(weights=str(weights), device="cpu"))
    outcome = score_files([path for path in (real_ct / name).iterdir() if path.is_file()], scorer)
    assert (outcome.status, outcome.reason_code, outcome.result) == ("not_eligible", code, None)


@pytest.mark.real_ct
@pytest.mark.parametrize(("name", "low", "high"), [("qin-lsc-0055", 100, 1000), ("lidc-0002", 0, 10)])
def test_real_series_with_the_bundled_weights(
    real_ct: Path, tmp_path: Path, name: str, low: float, high: float
):
    """Wide limits: docs/evaluation.md has the figures."""
    find(None)
    code, output, errors = score(real_ct / name, "--json", weights=DEFAULT, home=tmp_path)
    assert code == 0, errors
    line = json.loads(output)
    assert line["status"] == "scored", line
    assert low <= line["agatston"] <= high
