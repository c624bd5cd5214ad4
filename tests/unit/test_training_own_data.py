"""A site's own scans: the list, cases for training, records for evaluation, fine-tuning of bundled weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
import torch

from calcium.errors import AnnotationError, WeightsError
from models.options import ScoringOptions
from models.scoring import Scorer
from models.training.own_data import PARTS, case_of, part_of, read_list, record_of
from models.training.phantom import PhantomConfig, make_scan, write_dicom, write_reference
from models.training.recipes import RECIPES, Job, localizers, start_of
from models.training.weigher_training import blunted, sharpened
from models.weightset import load_weights


def _write_list(folder, text):
    path = folder / "scans.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder with one annotated series, its scan, and the same as an orCaScore pair."""
    folder = tmp_path_factory.mktemp("site")
    scan = make_scan(4, config=PhantomConfig(calcium="high", in_plane=256, thickness_mm=3.0))
    write_dicom(scan, folder / "a")
    write_reference(scan, folder)
    (folder / "labels.nrrd").rename(folder / "a.nrrd")
    image = SimpleITK.GetImageFromArray(scan.volume.hu)
    image.SetOrigin(scan.volume.geometry.origin_mm)
    image.SetSpacing(scan.volume.geometry.spacing_mm[::-1])
    SimpleITK.WriteImage(image, str(folder / "acti.mhd"))
    return folder, scan


def test_an_annotated_series_becomes_a_case_with_its_reference(site):
    folder, scan = site
    (one,) = read_list(_write_list(folder, "patient,series,annotation,part\np1,a,a.nrrd,training\n"))
    case = case_of(one)
    assert (case.patient, case.origin) == ("p1", "site")
    assert case.agatston == pytest.approx(scan.agatston, rel=0.2)
    assert case.hu.shape == case.labels.shape == case.geometry.shape
    assert np.isin(case.labels, (1, 2, 3)).any()
    assert case.heart_box.iou(scan.heart_box) > 0.6
    # The same image without DICOM: the same case.
    (other,) = read_list(
        _write_list(folder, "patient,series,annotation,thickness_mm\np1,acti.mhd,a.nrrd,3.0\n")
    )
    again = case_of(other)
    assert np.array_equal(again.hu, case.hu)
    assert again.agatston == case.agatston


def test_a_scan_with_a_total_alone_is_evaluated_but_not_trained_on(site):
    folder, scan = site
    (folder / "totals.csv").write_text("PatientID,score\np1,321.5\n", encoding="utf-8")
    (one,) = read_list(_write_list(folder, "patient,series,annotation\np1,a,totals.csv\n"))
    assert case_of(one) is None
    record = record_of(one, Scorer.load(ScoringOptions(heat_map=False)), "default")
    assert record.agatston == 321.5
    assert record.predicted_agatston["default"] == pytest.approx(scan.agatston, rel=0.5)
    assert record.predicted_volume_mm3 == {}


def test_a_scan_without_a_result_has_a_reason_and_no_score(tmp_path):
    head = make_scan(4, config=PhantomConfig(in_plane=128, thickness_mm=3.0))
    keep = head.volume.hu[-25:].copy()
    geometry = replace(head.volume.geometry, shape=keep.shape)
    write_dicom(replace(head, volume=replace(head.volume, hu=keep, geometry=geometry)), tmp_path / "neck")
    (one,) = read_list(_write_list(tmp_path, "patient,series,agatston\np1,neck,0\n"))
    record = record_of(one, Scorer.load(ScoringOptions(heat_map=False)), "default")
    assert record.predicted_agatston == {}
    assert record.description["failure"] == "heart_not_found"


def test_an_annotation_that_is_absent_is_named(site):
    folder, _ = site
    (one,) = read_list(_write_list(folder, "patient,series,annotation\np1,a,nothing.nrrd\n"))
    with pytest.raises(AnnotationError, match=r"nothing\.nrrd is no file"):
        case_of(one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,series\np1,a\n", "line 2: neither annotation nor agatston"),
        ("patient,series,agatston\n,a,1\n", "line 2: a line needs patient and series"),
        (
            "patient,series,agatston,part\np,a,1,training\np,b,1,test\n",
            "line 3: the patient is in training and in test",
        ),
        ("patient,series,agatston\n../p,a,1\n", "line 2: a pseudonym has"),
        ("patient,series,agatston,part\np,a,1,exam\n", "line 2: part must be one of"),
        ("patient,series,agatston,age\np,a,1,3\n", "unknown columns age"),
        ("patient,series,agatston\np,a,-3\n", "line 2: a score must be"),
        ("patient,series,agatston,thickness_mm\np,a,3,thin\n", "line 2: thickness_mm"),
        ("patient,series,agatston\n", "lists no scans"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_list(_write_list(tmp_path, text))


def test_patients_without_a_part_are_split_the_same_everywhere():
    parts = [part_of(f"patient-{number}") for number in range(2000)]
    # Pinned: another split would move patients between training and test.
    assert "".join(part[:2] for part in parts[:12]) == "trvatrtrtrvatrtrtetetrtr"
    shares = [parts.count(part) / len(parts) for part in PARTS]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.03)


def test_fine_tuning_starts_from_the_bundled_weigher_as_it_was_trained():
    bundled = load_weights("agatston", fuse=False).networks["weigher"][0]
    state = start_of("agatston")
    again = blunted(bundled)
    again.load_state_dict(state)
    round_trip = sharpened(again)
    assert torch.allclose(round_trip.output.weight, bundled.output.weight, atol=1e-5)
    assert torch.allclose(round_trip.output.bias, bundled.output.bias, atol=1e-5)
    assert round_trip.config.certain == pytest.approx(bundled.config.certain)
    with pytest.raises(WeightsError, match="no weigher"):
        start_of("paper-i")


def test_a_site_that_trains_no_localiser_exports_the_bundled_one(tmp_path):
    taken, bundled = localizers(Job(RECIPES["tiny"], tmp_path)), load_weights(fuse=False).networks
    for axis, members in taken.items():
        for one, other in zip(members, bundled[axis], strict=True):
            assert all(
                torch.equal(a, b)
                for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
            )
