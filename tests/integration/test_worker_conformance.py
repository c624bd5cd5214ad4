"""Every object under the validators of dicom3tools and dcmtk."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import peers
import pytest
import report_samples as samples

from models.results import Caution
from worker import outbox
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


def changed(**changes):
    return lambda source: samples.result(source, **changes)


def nothing(source):
    plain = samples.result(source)
    scores = tuple(replace(one, agatston=0.0, volume_mm3=0.0) for one in plain.slice_scores)
    return replace(plain, agatston=0.0, agatston_interval=(0.0, 3.2), volume_mm3=0.0, slice_scores=scores)


WORDS = "Long words about a thing that is not as it should be. " * 4
UNUSUAL = {  # name -> (changes of the source's header, result)
    "no calcium": ({}, nothing),
    "a huge score": ({}, changed(agatston=123456.789, agatston_interval=(1e5, 1e6))),
    "no interval, no group probabilities": ({}, changed(agatston_interval=None, group_probabilities=None)),
    "many cautions": ({}, changed(cautions=tuple(Caution(f"code_{number}", WORDS) for number in range(12)))),
    "no frame of reference": ({"FrameOfReferenceUID": None}, changed()),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_dciodvfy_finds_no_error_in_what_is_written_of_unusual_results(name, tmp_path):
    header, make = UNUSUAL[name]
    source = samples.series(**header)
    result = make(source)
    without_planes = {"seg", "gsps", "heat_map"} if "FrameOfReferenceUID" in header else set()
    written = dict(outbox.build(source, result, ("sr3d", "sr", *BUILDERS), samples.CONFIG))
    assert set(written) == {"sr3d", "sr", *BUILDERS} - without_planes
    for kind, dataset in written.items():
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(file_bytes(dataset))
        _, _, told = run("dciodvfy", path)
        assert [line for line in told.splitlines() if line.startswith("Error")] == [], kind


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 126", "Παπαδόπουλος^Γιώργος"),
        ("ISO_IR 144", "Иванов^Иван"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 127", "قباني^لنزار"),
    ],
)
def test_validators_take_names_of_every_script(character_set, name, tmp_path):
    source = samples.series(SpecificCharacterSet=character_set, PatientName=name, ReferringPhysicianName=name)
    path = tmp_path / "sr3d.dcm"
    path.write_bytes(file_bytes(build("sr3d", source, samples.result(source))))
    _, _, told = run("dciodvfy", path)
    assert "Error" not in told
    code, page, _ = run("dsr2html", path)
    assert code == 0
    for part in name.partition("=")[0].split("^"):  # the page shows the first component group only
        assert part in page
    _, dumped, _ = run("dcmdump", "+L", "+U8", "+P", "PatientName", path)
    assert f"[{name}]" in dumped


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
