"""Delivery by a whole node: commitment, an archive that is away, and kill -9 in between."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

import node as nodes
import peers
import pydicom
import pytest
import worker_rows
from sqlalchemy import delete, select, update

from service import beats
from service.tables import Delivery, OutputObject, ProcessBeat, now

SETTLE_SECONDS = 90
KILLS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return worker_rows.untrained_weights(tmp_path_factory.mktemp("weights"))


def scored_home(home, *, jobs=1, **settings):
    """Write a home with scored jobs whose deliveries wait, and return a reader of their states."""
    worker = worker_rows.node(home, **settings)
    for number in range(jobs):
        worker_rows.scored_job(worker, SeriesInstanceUID=f"1.2.826.0.1.3680043.10.1338.7.{number + 1}")

    def states():
        with worker.database.reading() as session:
            return Counter(session.scalars(select(Delivery.state)).all())

    return worker, states


def sends(worker):
    """Tell whether a sender is at work."""
    return bool(beats.alive(worker.database, "sender"))


def test_orthanc_commits_to_what_it_took(tmp_path, weights):
    dicom_port = peers.free_port()
    modalities = {"agatston": ("AGATSTON", "127.0.0.1", dicom_port)}
    with peers.orthanc(tmp_path / "orthanc", modalities=modalities) as pacs:
        settings = {"destinations": worker_rows.destination("o", pacs.aet, pacs.port, commitment=True)}
        worker, states = scored_home(tmp_path / "home", **settings)
        with nodes.running_node(
            tmp_path / "home", ready=False, weights=weights, dicom_port=dicom_port, **settings
        ) as running:
            peers.wait_for(
                lambda: states() == {"delivered": 2},
                seconds=SETTLE_SECONDS,
                what=f"commitment; see {running.log}",
            )
        assert len(pacs.get("/instances")) == 2
        with worker.database.reading() as session:
            for row in session.query(Delivery):
                assert row.transaction_uid
                assert row.stored_at <= row.delivered_at
        worker.close()


def test_an_archive_that_was_away_gets_everything_once(tmp_path, weights):
    port = peers.free_port()
    settings = {"pacs": f"STORESCP@127.0.0.1:{port}", "retry_first_seconds": 0.5}
    worker, states = scored_home(tmp_path / "home", jobs=3, **settings)
    with nodes.running_node(tmp_path / "home", ready=False, weights=weights, **settings) as running:

        def tried():
            with worker.database.reading() as session:
                return all(attempts >= 2 for attempts in session.scalars(select(Delivery.attempts)))

        peers.wait_for(tried, seconds=SETTLE_SECONDS, what="two tries of each delivery")
        assert set(states()) <= {"pending", "sending"}
        folder = tmp_path / "pacs"
        folder.mkdir()
        command = [peers.program("storescp"), "-aet", "STORESCP", "-od", str(folder), str(port)]
        with peers.running(command, port=port):
            peers.wait_for(
                lambda: states() == {"delivered": 6},
                seconds=SETTLE_SECONDS,
                what=f"delivery; see {running.log}",
            )
    with worker.database.reading() as session:
        kinds = ("sr3d", "summary")
        ours = set(session.scalars(select(OutputObject.sop_instance_uid).where(OutputObject.kind.in_(kinds))))
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.iterdir()} == ours
    worker.close()


def test_kill_9_in_the_middle_of_delivery_sends_no_second_report(tmp_path, weights):
    random = Random(20261125)
    with peers.orthanc(tmp_path / "orthanc") as pacs:
        settings = {"pacs": pacs.address, "retry_first_seconds": 0.5, "redispatch_seconds": 1}
        worker, states = scored_home(tmp_path / "home", jobs=4, **settings)
        kills = 0
        while states() != {"delivered": 8}:
            assert kills < KILLS + 1, f"not delivered: {states()}"
            with nodes.running_node(tmp_path / "home", ready=False, weights=weights, **settings) as running:
                if kills < KILLS:
                    peers.wait_for(
                        lambda: sends(worker),
                        seconds=SETTLE_SECONDS, what=f"a sender; see {running.log}",
                    )  # fmt: skip
                    time.sleep(random.uniform(0.0, 1.5))
                    running.kill()
                    kills += 1
                else:
                    peers.wait_for(
                        lambda: states() == {"delivered": 8}, seconds=SETTLE_SECONDS, what=f"see {running.log}"
                    )
            with worker.database.transaction() as session:
                session.execute(delete(ProcessBeat))
                # The lease of a sender that was killed ends now, and not in five minutes.
                session.execute(update(Delivery).where(Delivery.state == "sending").values(lease_until=now()))
        instances = [pacs.get(f"/instances/{one}/simplified-tags") for one in pacs.get("/instances")]
        reports = [one for one in instances if one["Modality"] == "SR"]
        assert len(instances) == 8
        assert len({one["SOPInstanceUID"] for one in reports}) == len(reports) == 4
        worker.close()
