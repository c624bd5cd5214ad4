"""Simulated scans as DICOM: readable, valid, deterministic, marked as simulated."""

import json
import subprocess

import numpy as np
import peers
import pydicom
import pytest

from calcium.annotations.label_maps import read_label_map
from calcium.series import read_series
from models.training.phantom import PhantomConfig, make_scan, write_dicom, write_reference
from models.training.phantom.dicom import TRANSFER_SYNTAXES
from service.cli import main

SMALL = {"field_of_view": "cardiac", "in_plane": 140, "thickness_mm": 3.0, "crop_to_heart": 4.0}


def scan_with(padding: bool):
    """Return a small scan with, or without, padding outside the scanner's circle."""
    for seed in range(40, 60):
        scan = make_scan(
            seed,
            config=PhantomConfig(field_of_view="cardiac", z_coverage="heart", in_plane=72, thickness_mm=3.0),
        )
        if (scan.description["padding_hu"] is not None) == padding:
            return scan
    raise AssertionError("no such scan in 20 seeds")


@pytest.fixture(scope="module")
def scan():
    return make_scan(2, config=PhantomConfig(calcium="moderate", **SMALL))


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_dicom(scan, folder)
    return folder


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_series_reads_back_as_the_same_volume(scan, tmp_path, syntax):
    series = read_series(write_dicom(scan, tmp_path, transfer_syntax=syntax))
    np.testing.assert_array_equal(series.volume.hu, scan.volume.hu)
    assert series.volume.slice_thickness_mm == scan.volume.slice_thickness_mm
    assert series.volume.geometry.shape == scan.volume.geometry.shape
    np.testing.assert_allclose(series.volume.geometry.origin_mm, scan.volume.geometry.origin_mm, atol=1e-4)
    np.testing.assert_allclose(series.volume.geometry.spacing_mm, scan.volume.geometry.spacing_mm, atol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
def test_padding_reads_back_as_air(tmp_path, padding):
    scan = scan_with(padding)
    paths = write_dicom(scan, tmp_path)
    assert ("PixelPaddingValue" in pydicom.dcmread(paths[0])) == padding
    np.testing.assert_array_equal(read_series(paths).volume.hu, scan.volume.hu)


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("padding", [False, True])
def test_dciodvfy_finds_no_errors(tmp_path, padding):
    program = peers.program("dciodvfy")
    path = write_dicom(scan_with(padding), tmp_path)[0]
    found = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert "Error" not in found.stdout + found.stderr
    assert "CTImage" in found.stdout + found.stderr


def test_instances_say_that_they_are_simulated(folder):
    ds = pydicom.dcmread(folder / "0000.dcm")
    assert "SIMULATED" in ds.SeriesDescription
    assert str(ds.PatientName).startswith("PHANTOM^")


def test_bytes_depend_on_the_scan_alone(scan, folder, tmp_path):
    for path in write_dicom(scan, tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_seeds_do_not_share_uids(scan, folder, tmp_path):
    other = make_scan(3, config=PhantomConfig(calcium="moderate", **SMALL))
    first = pydicom.dcmread(write_dicom(other, tmp_path)[0])
    ds = pydicom.dcmread(folder / "0000.dcm")
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert first[name].value != ds[name].value


def test_reference_file_tells_the_totals(scan, tmp_path):
    document = json.loads(write_reference(scan, tmp_path).read_text())
    labels = read_label_map(tmp_path / "labels.nrrd", scan.resampled.geometry)
    assert np.array_equal(labels, scan.labels)
    assert document["agatston"] == round(scan.agatston, 2)
    total = sum(entry["agatston"] for entry in document["slice_scores"]) * 1.5 / 3.0
    assert total == pytest.approx(scan.agatston, abs=0.1)
    assert document["heart_box_mm"] == [list(scan.heart_box.low), list(scan.heart_box.high)]


def test_command_writes_series_and_references(tmp_path, capsys):
    arguments = ["--seed", "5", "--count", "2", "--cardiac", "--size", "64", "--thickness", "3"]
    assert main(["phantom", str(tmp_path), "--agatston", "none", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("Agatston 0.0 (very low)" in line for line in lines)
    for seed in (5, 6):
        assert (tmp_path / f"phantom-{seed}" / "reference.json").is_file()
        assert (tmp_path / f"phantom-{seed}" / "0000.dcm").is_file()


@pytest.mark.parametrize("wrong", [["--agatston", "plenty"], ["--count", "0"], ["--thickness", "50"]])
def test_command_refuses_nonsense(tmp_path, capsys, wrong):
    assert main(["phantom", str(tmp_path), *wrong]) == 2
    assert "agatston phantom:" in capsys.readouterr().err
