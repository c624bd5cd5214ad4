"""Every object under the validators of dicom3tools and dcmtk."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import peers
import pytest
import report_samples as samples

from models.results import Caution
from worker.companions import BUILDERS
from worker.encoding import file_bytes
from worker.report.document import build_not_eligible_report, build_report

REPORTS = ("sr3d", "sr", "not_eligible", "not_eligible_3d")


def build(kind, source, result):
    if kind.startswith("not_eligible"):
        reason = Caution("contrast_enhanced", "Contrast medium in the blood.")
        sr_kind = "sr3d" if kind.endswith("3d") else "sr"
        return build_not_eligible_report(source, reason, kind=sr_kind, config=samples.CONFIG)
    if kind in REPORTS:
        return build_report(source, result, kind=kind, config=samples.CONFIG)
    return BUILDERS[kind](source, result, samples.CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # dcmtk's and dicom3tools' comparisons are of bytes: a source in UTF-8, as our objects are.
    source = samples.series(SpecificCharacterSet="ISO_IR 192")
    result = samples.result(source)
    folder = tmp_path_factory.mktemp("objects")
    samples.write_source(source, folder / "source")
    for kind in (*REPORTS, *BUILDERS):
        (folder / f"{kind}.dcm").write_bytes(file_bytes(build(kind, source, result)))
    return folder


def run(name, *arguments):
    done = subprocess.run([peers.program(name), *map(str, arguments)], capture_output=True, check=False)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


# Accepted: the private scheme, the Device UID that IHE AIR asks for (and so Standard Extended), and a value
# that the 2022 program does not know.
ACCEPTED = ("99AGATSTON", "Device UID", "Standard Extended SOP Class", "defined term <QUANTITY>")


@pytest.mark.parametrize("kind", [*REPORTS, *BUILDERS])
def test_dciodvfy_finds_nothing(kind, folder):
    _, _, told = run("dciodvfy", folder / f"{kind}.dcm")
    lines = [line for line in told.splitlines() if line.startswith(("Error", "Warning"))]
    assert [line for line in lines if not any(word in line for word in ACCEPTED)] == []


@pytest.mark.parametrize("highest", [0.0, 0.3])
def test_a_weak_heat_map_has_a_window_that_the_standard_allows(highest, tmp_path):
    source = samples.series()
    result = samples.result(source)
    response = result.heat_map.response * np.float32(highest / result.heat_map.response.max())
    weak = replace(result, heat_map=replace(result.heat_map, response=response))
    (tmp_path / "weak.dcm").write_bytes(file_bytes(BUILDERS["heat_map"](source, weak, samples.CONFIG)))
    _, _, told = run("dciodvfy", tmp_path / "weak.dcm")
    assert "Error" not in told


def test_dcentvfy_finds_them_consistent_with_their_source(folder):
    files = [*sorted(folder.glob("*.dcm")), *sorted((folder / "source").glob("*.dcm"))]
    _, _, told = run("dcentvfy", *files)
    assert [line for line in told.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("kind", REPORTS)
def test_dcmtk_and_dicom3tools_read_the_report(kind, folder):
    path = folder / f"{kind}.dcm"
    code, out, told = run("dsrdump", "+Pl", path)
    assert (code, [line for line in told.splitlines() if line.startswith("E:")]) == (0, [])
    assert "Imaging Measurement Report" in out
    code, page, _ = run("dsr2html", path)
    assert code == 0
    assert "Müller" in page
    if not kind.startswith("not_eligible"):
        assert "Coronary artery calcium score" in page
        assert "research use, not for diagnosis" in page
    _, _, told = run("dcsrdump", path)
    assert "(126000,DCM" in told
    assert not [line for line in told.splitlines() if line.startswith("Error")]


def test_every_concept_name_is_on_the_page(folder):
    # Containers that are CONTINUOUS make dsr2html drop the names and print bare numbers.
    _, page, _ = run("dsr2html", folder / "sr3d.dcm")
    for name in (
        "Calcium Volume",
        "Heart box, lowest x",
        "Predicted Agatston score of one slice",
        "Overall study quality",
    ):
        assert name in page
