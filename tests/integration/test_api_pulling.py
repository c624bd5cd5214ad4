"""`agatston find` and `agatston pull` against real archives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import archive
import peers
import pytest
import rows
import small_ct
from sqlalchemy import func, select

from calcium.errors import ArchiveUnavailableError, SettingsError
from service import pulling, scu
from service.admission import Admission
from service.inbox import Inbox
from service.scp import Scp
from service.settings import Settings
from service.store import Store
from service.tables import Instance, Job, Series


class Home:
    """A node's database, inbox and store, without processes."""

    def __init__(self, folder, **settings):
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(home=folder, dicom_port=peers.free_port(), **settings)
        self.database = rows.database(folder)
        self.store = Store(self.settings.store_root)
        self.inbox = Inbox(self.settings, self.store, self.database)
        self.admission = Admission(self.settings, self.store, self.database)

    def puller(self, peer, method="auto"):
        return pulling.Puller(self.settings, self.database, self.inbox, self.admission, peer, method=method)

    def instances(self):
        with self.database.reading() as session:
            return session.scalar(select(func.count(Instance.id)))

    def close(self):
        self.inbox.close()
        self.database.dispose()


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def filled(request, tmp_path, home):
    """An archive with a lung and a bone series of one study, and one of another day; it knows our SCP."""
    port = home.settings.dicom_port
    if request.param == "orthanc":
        running = peers.orthanc(tmp_path / "pacs", modalities={"us": ("AGATSTON", "127.0.0.1", port)})
    else:
        running = archive.dcmqrscp(tmp_path / "pacs", known={"AGATSTON": port})
    with running as there:
        lung = small_ct.write_series(tmp_path / "sent", 5)
        study = lung[0].StudyInstanceUID
        small_ct.write_series(
            tmp_path / "sent", 3, StudyInstanceUID=study, SeriesDescription="BONE 0.6", SeriesNumber=2
        )
        small_ct.write_series(tmp_path / "sent", 2, StudyDate="20261101", PatientID="scu-2", StudyID="2")
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        yield scu.Peer.parse(there.address), lung


def uids(found):
    return {one.series_instance_uid for one in found}


def test_find_filters_by_day_and_description(filled):
    peer, lung = filled

    def ask():
        # dcmqrscp drops an association now and then while it still writes its index.
        try:
            return list(pulling.find(peer, pulling.Wanted(), calling_ae="AGATSTON"))
        except ArchiveUnavailableError:
            return []

    everything = peers.wait_for(ask, seconds=30, what="an answer of the archive")
    assert len(everything) == 3
    of_day = list(pulling.find(peer, pulling.Wanted(dates="20261120-"), calling_ae="AGATSTON"))
    assert len(of_day) == 2
    wanted = pulling.Wanted(dates="20261120-", description="lung*")
    # dcmqrscp does not tell descriptions: what is not known to match is not pulled.
    matching = {lung[0].SeriesInstanceUID} if peer.aet == "ORTHANC" else set()
    assert uids(pulling.find(peer, wanted, calling_ae="AGATSTON")) == matching
    only = pulling.Wanted(series_instance_uid=lung[0].SeriesInstanceUID)
    assert uids(pulling.find(peer, only, calling_ae="AGATSTON")) == {lung[0].SeriesInstanceUID}
    assert not list(pulling.find(peer, pulling.Wanted(modality="MR"), calling_ae="AGATSTON"))


@pytest.mark.parametrize("method", ["get", "move"])
def test_pull_makes_the_slices_durable_and_then_knows_them(filled, home, method):
    peer, lung = filled
    wanted = pulling.Wanted(series_instance_uid=lung[0].SeriesInstanceUID)
    found = list(pulling.find(peer, wanted, calling_ae="AGATSTON"))
    listens = Scp(home.settings, home.inbox, home.admission)
    listens.start()
    try:
        (pulled,) = home.puller(peer, method).pull_all(found)
    finally:
        listens.stop()
    assert (pulled.outcome, pulled.instances, pulled.text) == ("pulled", 5, "")
    assert home.instances() == 5
    with home.database.reading() as session:
        series = session.scalars(select(Series)).one()
        keys = session.scalars(select(Instance.key)).all()
    assert series.series_instance_uid == lung[0].SeriesInstanceUID
    assert all(home.store.exists(key) for key in keys)
    assert pulling.is_known(home.database, found[0]), "a series that arrives now is not to be pulled twice"


def test_a_release_is_noted_after_a_get(filled, home):
    peer, lung = filled
    wanted = pulling.Wanted(series_instance_uid=lung[0].SeriesInstanceUID)
    list(home.puller(peer, "get").pull_all(pulling.find(peer, wanted, calling_ae="AGATSTON")))
    home.inbox.close()  # writes what waits
    with home.database.reading() as session:
        assert session.scalars(select(Series.released_at)).one() is not None
    home.inbox = Inbox(home.settings, home.store, home.database)


@pytest.mark.parametrize(
    ("state", "known"), [("scored", True), ("not_eligible", True), ("failed", False), ("cancelled", False)]
)
def test_what_was_scored_is_known_and_what_failed_is_not(home, state, known):
    with home.database.transaction() as session:
        job = rows.add_job(session, state=state, instances=3)
        series = session.get(Series, job.series_id)
        found = pulling.FoundSeries(
            series.study_instance_uid, series.series_instance_uid, "20261124", "CT", "", "", 3
        )
        more = pulling.FoundSeries(
            series.study_instance_uid, series.series_instance_uid, "20261124", "CT", "", "", 4
        )
    assert pulling.is_known(home.database, found) is known
    assert not pulling.is_known(home.database, more), "the archive has got late slices since"


def test_the_throttle_waits_for_the_queue(home):
    with home.database.transaction() as session:
        for _ in range(3):
            rows.add_job(session, state="waiting")
    asked = []

    def stopping():
        asked.append(1)
        return len(asked) > 2

    peer = scu.Peer("NOBODY", "127.0.0.1", peers.free_port())
    found = [pulling.FoundSeries("1.2", "1.3", "", "CT", "", "", None)]
    (only,) = home.puller(peer).pull_all(found, max_waiting=2, stopping=stopping)
    assert only.outcome == "failed"
    assert len(asked) == 3, "it asked before the series, and while it waited"


def test_an_archive_that_goes_down_is_an_outcome(home):
    peer = scu.Peer("NOBODY", "127.0.0.1", peers.free_port())
    pulled = home.puller(peer).pull(pulling.FoundSeries("1.2", "1.3", "", "CT", "", "", None))
    assert pulled.outcome == "failed"
    assert "does not answer" in pulled.text


def test_a_full_disk_refuses_slices_and_says_incomplete(tmp_path, home):
    full = Home(tmp_path / "full", disk_min_free_mb=10**9)
    with peers.orthanc(tmp_path / "pacs") as there:
        slices = small_ct.write_series(tmp_path / "sent", 2)
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        found = pulling.FoundSeries(
            slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID, "", "CT", "", "", 2
        )
        pulled = full.puller(scu.Peer.parse(there.address), "get").pull(found)
    full.close()
    assert pulled.outcome in {"incomplete", "failed"}
    assert full.instances() == 0


def test_names_of_archives():
    settings = Settings(
        pacs="PACS@10.0.0.1:104",
        peers=({"name": "archive", "aet": "ARC", "host": "10.0.0.2", "port": 11112},),
    )
    assert pulling.peer_of(settings, None) == scu.Peer("PACS", "10.0.0.1", 104)
    assert pulling.peer_of(settings, "archive") == scu.Peer("ARC", "10.0.0.2", 11112)
    assert pulling.peer_of(settings, "X@h:1") == scu.Peer("X", "h", 1)
    with pytest.raises(SettingsError, match="no peer or destination"):
        pulling.peer_of(settings, "other")
    with pytest.raises(SettingsError, match="no archive"):
        pulling.peer_of(Settings(), None)


def test_the_commands_pull_once_and_then_find_nothing_new(tmp_path, home):
    with peers.orthanc(tmp_path / "pacs") as there:
        slices = small_ct.write_series(tmp_path / "sent", 4)
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        environment = {**os.environ, "AGATSTON_HOME": str(home.settings.home), "AGATSTON_PACS": there.address}

        def agatston(*arguments):
            command = [sys.executable, "-m", "service.cli", *arguments]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        def found_at_last():
            return agatston("find", "--new", "--since", "2026-11-20", "--json")

        (found,) = peers.wait_for(found_at_last, seconds=60, what="an answer of the archive")
        assert (found["series_instance_uid"], found["instances"]) == (slices[0].SeriesInstanceUID, 4)
        assert "Test" not in json.dumps(found), "nothing printed names the patient"
        (pulled,) = agatston("pull", "--since", "2026-11-20", "--json")
        assert (pulled["outcome"], pulled["instances"]) == ("pulled", 4)
        assert agatston("find", "--new", "--json") == []
        (known,) = agatston("pull", "--json")
        assert known["outcome"] == "known"
    assert home.instances() == 4
    with home.database.reading() as session:
        assert session.scalar(select(func.count(Job.id))) == 0, "the keeper opens the job, not the pull"
