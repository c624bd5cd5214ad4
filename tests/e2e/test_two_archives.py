"""From one archive to two: pulled, scored, delivered, committed to; and a scanner that asks is answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import archive
import node
import peers
import pydicom
import pytest
import sr_reader
from bench_sections import scan_of
from pydicom.uid import generate_uid

from models.training.phantom import write_dicom
from service import scu

SR_3D, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7"
OURS = {  # kind -> SOP class
    "sr3d": SR_3D,
    "summary": SC,
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
    "gsps": "1.2.840.10008.5.1.4.1.1.11.1",
    "key_objects": "1.2.840.10008.5.1.4.1.1.88.59",
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",
    "heat_map": "1.2.840.10008.5.1.4.1.1.30",
}
SETTLE_SECONDS = 120
pytestmark = pytest.mark.timeout(600)  # a whole node, two archives and a simulated scan


def run(name, *arguments):
    done = subprocess.run([peers.program(name), *map(str, arguments)], capture_output=True, check=False)
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    return folder, write_dicom(scan_of(80, calcium="high"), folder)


def destinations(pacs, second):
    there = {"aet": pacs.aet, "host": "127.0.0.1", "port": pacs.port}
    committed = ["sr3d", "summary"]
    return json.dumps([
        {"name": "pacs", **there, "kinds": committed, "commitment": True},
        {"name": "companions", **there, "kinds": [kind for kind in OURS if kind not in committed]},
        {"name": "second", "aet": second.aet, "host": "127.0.0.1", "port": second.port, "kinds": ["sr3d"]},
    ])  # fmt: skip


def test_pulled_from_orthanc_scored_and_delivered_to_it_and_to_dcmqrscp(tmp_path, scan):
    folder, files = scan
    dicom_port = peers.free_port()
    us = {"us": ("AGATSTON", "127.0.0.1", dicom_port)}
    with (
        peers.orthanc(tmp_path / "orthanc", modalities=us) as pacs,
        archive.dcmqrscp(tmp_path / "second", known={}) as second,
    ):
        peers.storescu(pacs.port, folder, called=pacs.aet)
        settings = {
            "dicom_port": dicom_port,
            "destinations": destinations(pacs, second),
            "series_idle_seconds": 1,
        }
        with node.running_node(tmp_path / "home", **settings) as running:
            environment = os.environ | {
                "AGATSTON_HOME": str(running.home),
                **{f"AGATSTON_{name.upper()}": str(value) for name, value in settings.items()},
            }
            command = [sys.executable, "-m", "service.cli", "pull", "--from", "pacs"]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
            (job,) = running.wait_for_jobs()
            assert job["state"] == "scored", job

            def delivered():
                states = running.get(f"/api/v1/jobs/{job['id']}")["deliveries"]
                return states == {"delivered": len(OURS) + 1}

            peers.wait_for(delivered, seconds=SETTLE_SECONDS, what=f"delivery; see {running.log}")
            result = running.get(f"/api/v1/jobs/{job['id']}/result")
            scanner_asks_for_its_slices(running, files)

        received = tmp_path / "received"
        received.mkdir()
        for instance in pacs.get("/instances"):
            (received / f"{instance}.dcm").write_bytes(pacs.download(instance))
        ours = {}
        for path in received.iterdir():
            uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID)
            if uid in OURS.values():
                assert uid not in ours, "one object of each class"
                ours[uid] = path
        assert set(ours) == set(OURS.values())
        check_validators(ours, received)

        report = pydicom.dcmread(ours[SR_3D])
        read = sr_reader.read(report)
        assert read.totals.numbers["SCT", "450360000"] == result["agatston"] > 100
        assert [one.numbers["99AGATSTON", "SLICE-AGATSTON"] for one in read.slices] == [
            one["agatston"] for one in result["slice_scores"] if one["agatston"] >= 0.005
        ]
        assert read.totals.numbers["DCM", "122660"] == result["volume_mm3"]
        assert read.totals.pictures == [str(pydicom.dcmread(ours[SC]).SOPInstanceUID)]
        copies = [path for path in second.folder.rglob("*") if path.is_file() and path.name != "index.dat"]
        assert [pydicom.dcmread(path) for path in copies] == [report]


def check_validators(ours, received):
    for path in ours.values():
        assert "Error" not in run("dciodvfy", path), path
    told = run("dcentvfy", *received.iterdir())
    assert not [line for line in told.splitlines() if line.startswith("Error")]


def scanner_asks_for_its_slices(running, files):
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files[:3]]
    held = [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in headers]
    unknown = generate_uid()
    peer = scu.Peer("AGATSTON", "127.0.0.1", running.dicom_port)
    asked = [*held, (held[0][0], unknown)]
    answer = scu.request_commitment(peer, asked, generate_uid(), calling_ae="ORTHANC", wait=20)
    assert answer is not None
    assert set(answer.committed) == {uid for _, uid in held}
    assert answer.failed == {unknown: scu.NO_SUCH_OBJECT}
