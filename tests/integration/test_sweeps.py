"""Sweeps against real archives, and what is remembered of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import archive
import peers
import pytest
import rows
from api_client import serving
from dicom_series import pattern, series, write
from pydicom.uid import generate_uid

from calcium.errors import SettingsError
from service import checks, retrievals, sweeps
from service.admission import Admission
from service.database import Database, upgrade
from service.inbox import Inbox
from service.retrievals import State, SweepBusyError
from service.settings import ApiToken, Settings
from service.store import Store
from service.sweeps import Sweeper, is_due
from service.tables import Job, Retrieval, now

BROWSER = {"Accept": "text/html"}
SWEEP = {"name": "screening", "every_minutes": 60, "pause_seconds": 0}


def scan(folder, kernel, *, study=None, slices=40, **elements):
    """Write a series of one scan; `study`: of the same study and acquisition."""
    uid = generate_uid()
    made = series(
        pattern(slices, 8, 8), SeriesInstanceUID=uid, StudyInstanceUID=study or generate_uid(),
        ConvolutionKernel=kernel, **elements,
    )  # fmt: skip
    for one in made:
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.PatientID = f"sweep-{one.StudyInstanceUID[-6:]}"
    write(made, folder / uid)
    return uid


@pytest.fixture
def home(tmp_path):
    database = rows.database(tmp_path)
    made = []

    def sweeper(pacs, **sweep):
        settings = Settings(home=tmp_path, pacs=pacs, sweeps=[SWEEP | {"days": 3650} | sweep])
        store = Store(settings.store_root)
        inbox = Inbox(settings, store, database)
        made.append(inbox)
        return Sweeper(settings, database, inbox, Admission(settings, store, database)), settings

    yield database, sweeper
    for inbox in made:
        inbox.close()
    database.dispose()


# dcmqrscp tells neither how many slices a series has nor its kernel: everything is fetched and judged here.
@pytest.mark.parametrize(("kind", "found", "passed_over"), [("orthanc", 3, 1), ("dcmqrscp", 4, 0)])
def test_a_sweep_fetches_the_best_of_each_scan_once(tmp_path, home, kind, found, passed_over):
    database, make = home
    study = generate_uid()
    today = f"{datetime.now().astimezone():%Y%m%d}"
    soft = scan(tmp_path / "sent", "B30f", study=study, StudyDate=today)
    sharp = scan(tmp_path / "sent", "B70f", study=study, StudyDate=today, SeriesNumber=3)
    other = scan(tmp_path / "sent", "B70f", StudyDate=today)
    short = scan(tmp_path / "sent", "B30f", StudyDate=today, slices=5)
    running = (
        peers.orthanc(tmp_path / "pacs") if kind == "orthanc" else archive.dcmqrscp(tmp_path / "pacs", known={})
    )
    with running as there:
        for folder in sorted((tmp_path / "sent").iterdir()):
            peers.storescu(there.port, folder, called=there.aet)
        sweeper, settings = make(there.address)

        def swept():
            # dcmqrscp drops an association now and then while it still writes its index.
            number = sweeper.run(settings.sweeps[0], actor="test")
            with database.reading() as session:
                row = session.get_one(Retrieval, number)
            return row if (row.state, row.found) == ("done", found) else None

        first = peers.wait_for(swept, seconds=60, what="a sweep that found all")
        assert first.passed_over == passed_over
        assert (first.fetched + first.known, first.failed, first.faults) == (found - passed_over, 0, [])
        with serving(settings, database) as api:
            listed = api.get("/api/v1/series").json()["series"]
            got = {one["series_instance_uid"] for one in listed}
            assert got == ({soft, other} if passed_over else {soft, sharp, other, short})
            sweeper.round()  # not due: it has just run
            newest, *_ = api.get("/api/v1/retrievals", params={"name": "screening"}).json()
            assert (newest["id"], newest["state"], newest["actor"]) == (first.id, "done", "test")
            assert api.get(f"/api/v1/retrievals/{first.id}").json() == newest
            assert api.get("/api/v1/retrievals/999").status_code == 404
            assert api.get("/api/v1/retrievals", params={"name": "another"}).json() == []
        (check,) = checks.check_sweeps(settings)
        assert (check.name, check.verdict) == ("sweep screening", "OK")
        assert f"{found} found" in check.text


def test_an_archive_that_is_away_is_remembered_and_asked_again(home):
    database, make = home
    sweeper, settings = make(f"GONE@127.0.0.1:{peers.free_port()}")
    sweeper.round()
    row = retrievals.last(database, "screening")
    assert (row.state, row.actor, row.found) == ("failed", "schedule", 0)
    assert "GONE" in row.error
    sweeper.round()  # not at once
    assert retrievals.last(database, "screening").id == row.id
    later = row.started_at + timedelta(minutes=10)
    assert is_due(settings.sweeps[0], row, later, since=later)
    (check,) = checks.check_sweeps(settings)
    assert check.verdict == "WARN"


def test_a_run_of_a_dead_process_is_lost_and_done_again(home):
    database, make = home
    sweeper, _ = make(f"GONE@127.0.0.1:{peers.free_port()}")
    # Not a number that a process can have.
    number = retrievals.begin(
        database, kind="sweep", name="screening", archive="", actor="schedule",
        owner=sweeper._owner.rsplit(":", 1)[0] + ":99999999",
    )  # fmt: skip
    assert retrievals.end_lost(database) == 1
    with database.reading() as session:
        assert session.get_one(Retrieval, number).state == "lost"
    assert retrievals.end_lost(database) == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_sweep_has_one_run_at_a_time(request, tmp_path, home, kind):
    database, make = home
    if kind == "postgresql":
        database = Database(request.getfixturevalue("new_postgres_database"))
        upgrade(database)
    else:
        sweeper, settings = make("A@127.0.0.1:1")
    names = ("screening", "another")
    for name in names:
        retrievals.begin(database, kind="sweep", name=name, archive="", actor="a", owner="scp@elsewhere:1")
    with pytest.raises(SweepBusyError):
        retrievals.begin(
            database, kind="sweep", name="screening", archive="", actor="b", owner="", state=State.ASKED
        )
    pulls = [retrievals.begin(database, kind="pull", archive="", actor="a", owner="") for _ in range(2)]
    assert [one.id for one in retrievals.latest(database, kind="pull")] == pulls[::-1]
    first = retrievals.last(database, "screening")
    if kind == "sqlite":
        with pytest.raises(SweepBusyError):
            sweeper.run(settings.sweeps[0], actor="c")
        sweeper.round()
        assert retrievals.last(database, "screening").id == first.id
    retrievals.end(database, first.id, State.DONE)
    asked = retrievals.begin(
        database, kind="sweep", name="screening", archive="", actor="b", owner="", state=State.ASKED
    )
    assert retrievals.take(database, asked, "scp@here:1")
    assert not retrievals.take(database, asked, "scp@elsewhere:1")
    if kind == "postgresql":
        database.dispose()


def test_a_sweep_that_nobody_begins_is_lost(home):
    database, _ = home
    number = retrievals.begin(
        database, kind="sweep", name="screening", archive="", actor="a", owner="", state=State.ASKED
    )
    assert retrievals.end_lost(database) == 0
    with database.transaction() as session:
        session.get_one(Retrieval, number).seen_at = now() - timedelta(hours=2)
    assert retrievals.end_lost(database) == 1
    assert retrievals.last(database, "screening").error == "no process began it"


def test_a_person_starts_a_sweep_and_sees_what_came(tmp_path, home):
    # Asked for over HTTP, run by the process that runs sweeps, shown on the page.
    database, make = home
    today = f"{datetime.now().astimezone():%Y%m%d}"
    common = {"StudyDate": today, "SeriesDescription": "Lung 1.0"}
    wanted = scan(tmp_path / "sent", "B30f", ProtocolName="Thorax LowDose", **common)
    scan(tmp_path / "sent", "B30f", ProtocolName="Abdomen", **common)
    scan(
        tmp_path / "sent", "B30f", ProtocolName="Thorax LowDose", StudyDate=today, SeriesDescription="Bone 1.0"
    )
    with peers.orthanc(tmp_path / "pacs") as there:
        for folder in sorted((tmp_path / "sent").iterdir()):
            peers.storescu(there.port, folder, called=there.aet)
        sweeper, settings = make(
            there.address, every_minutes=1000, protocol="*lowdose*", description="*lung*", min_instances=40
        )
        with serving(settings, database) as api:
            (listed,) = api.get("/api/v1/sweeps").json()
            assert listed == {"name": "screening", "archive": "", "schedule": "every 1000 min", "last": None}
            page = api.get("/", headers=BROWSER).text
            assert "screening" in page
            assert 'action="/sweeps/screening/run"' in page
            assert api.post("/api/v1/sweeps/another/run").status_code == 404
            asked = api.post("/api/v1/sweeps/screening/run")
            assert asked.status_code == 202
            number = asked.json()["retrieval"]
            busy = api.post("/api/v1/sweeps/screening/run")
            assert (busy.status_code, busy.json()["code"]) == (409, "sweep_busy")
            assert api.post("/sweeps/screening/run", headers=BROWSER).status_code == 409
            sweeper.round()
            (listed,) = api.get("/api/v1/sweeps").json()
            last = listed["last"]
            assert (last["id"], last["state"], last["error"]) == (number, "done", None)
            assert (last["found"], last["fetched"], last["failed"]) == (1, 1, 0)
            (got,) = api.get("/api/v1/series").json()["series"]
            assert got["series_instance_uid"] == wanted
            page = api.get("/", headers=BROWSER).text
            assert '<span class="delivery good">done</span>' in page
            again = api.post("/sweeps/screening/run", headers=BROWSER)
            assert (again.status_code, again.headers["location"]) == (303, "/")
            assert 'action="/sweeps/screening/run"' not in api.get("/", headers=BROWSER).text  # it is asked for
            sweeper.round()
            assert retrievals.last(database, "screening").known == 1


@pytest.mark.parametrize("end", ["room", "stop"])
def test_a_sweep_waits_while_the_queue_is_full(tmp_path, home, monkeypatch, end):
    database, make = home
    monkeypatch.setattr(sweeps, "QUEUE_POLL_SECONDS", 0.02)
    for number in range(2):
        scan(tmp_path / "sent", "B30f", StudyDate=f"{datetime.now().astimezone():%Y%m%d}", SeriesNumber=number)
    with database.transaction() as session:
        jobs = [rows.add_job(session, state="waiting").id for _ in range(3)]
    with peers.orthanc(tmp_path / "pacs") as there:
        for folder in sorted((tmp_path / "sent").iterdir()):
            peers.storescu(there.port, folder, called=there.aet)
        sweeper, settings = make(there.address, max_waiting=2)
        thread = threading.Thread(target=sweeper.run, args=(settings.sweeps[0],), kwargs={"actor": "test"})
        thread.start()

        def waits():
            last = retrievals.last(database, "screening")
            return last if last is not None and last.found == 2 else None

        found = peers.wait_for(waits, what="what the archive has")
        peers.wait_for(lambda: waits().seen_at > found.seen_at, what="a sign that it waits")
        assert (waits().state, waits().fetched) == ("running", 0)
        if end == "stop":
            sweeper.stop()
        else:
            with database.transaction() as session:
                session.get_one(Job, jobs[0]).state = "cancelled"
        thread.join(60)
    done = retrievals.last(database, "screening")
    assert (done.state, done.fetched) == (("stopped", 0) if end == "stop" else ("done", 2))


def test_only_operators_start_sweeps(home):
    database, make = home
    _, settings = make("A@127.0.0.1:1")
    reader = ApiToken(name="r", role="read", sha256=hashlib.sha256(b"reads").hexdigest())
    with serving(settings.model_copy(update={"tokens": (reader,)}), database) as api:
        key = {"Authorization": "Bearer reads"}
        assert api.get("/api/v1/sweeps", headers=key).status_code == 200
        assert api.post("/api/v1/sweeps/screening/run", headers=key).status_code == 403
        assert api.post("/sweeps/screening/run", headers=key).status_code == 403
        assert "Run now" not in api.get("/", headers=key | BROWSER).text
    assert retrievals.last(database, "screening") is None


def agatston(settings, *arguments):
    environment = os.environ | {
        "AGATSTON_HOME": str(settings.home),
        "AGATSTON_PACS": settings.pacs,
        "AGATSTON_SWEEPS": f"[{settings.sweeps[0].model_dump_json(exclude_defaults=True)}]",
    }
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_sweeps_and_pulls_of_the_command_line_are_remembered(tmp_path, home):
    database, make = home
    uid = scan(tmp_path / "sent", "B30f", StudyDate=f"{datetime.now().astimezone():%Y%m%d}")
    with peers.orthanc(tmp_path / "pacs") as there:
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        _, settings = make(there.address)
        done = agatston(settings, "pull", "--series", uid)
        assert done.returncode == 0, done.stderr
        (pulled,) = retrievals.latest(database, kind="pull")
        assert (pulled.state, pulled.found, pulled.fetched, pulled.failed) == ("done", 1, 1, 0)
        assert pulled.actor == "agatston pull"
        assert "has not run yet" in agatston(settings, "sweep").stdout
        done = agatston(settings, "sweep", "screening")
        assert done.returncode == 0, done.stderr
        assert "screening (every 60 min): done" in done.stdout
        assert "1 found, 1 known, 0 passed over, 0 fetched, 0 failed" in done.stdout
        assert retrievals.last(database, "screening").actor == "agatston sweep"
        done = agatston(settings, "sweep", "nothing")
        assert (done.returncode, "there is no sweep nothing" in done.stderr) == (2, True)
    away = agatston(settings, "pull", "--series", uid)
    assert away.returncode == 3
    failed, _ = retrievals.latest(database, kind="pull")
    assert failed.state == "failed"
    assert there.aet in failed.error


def moment(text):
    return datetime.fromisoformat(text).astimezone()


def ran(at, state="done"):
    return Retrieval(state=state, started_at=moment(at).astimezone(UTC))


@pytest.mark.parametrize(
    ("schedule", "last", "at", "due"),
    [
        ({"every_minutes": 30}, None, "2026-11-25T10:00", True),
        ({"every_minutes": 30}, "2026-11-25T09:31", "2026-11-25T10:00", False),
        ({"every_minutes": 30}, "2026-11-25T09:30", "2026-11-25T10:00", True),
        ({"at": ["02:00"]}, "2026-11-24T02:00", "2026-11-25T01:59", False),
        ({"at": ["02:00"]}, "2026-11-24T02:00", "2026-11-25T02:00", True),
        ({"at": ["02:00"]}, "2026-11-24T02:00", "2026-11-25T09:00", True),  # the node was down at two
        ({"at": ["02:00", "14:00"]}, "2026-11-25T02:00", "2026-11-25T13:59", False),
        ({"at": ["02:00", "14:00"]}, "2026-11-25T02:00", "2026-11-25T14:01", True),
        ({"at": ["02:00"]}, None, "2026-11-25T02:01", True),
        ({"at": ["02:00"]}, None, "2026-11-25T01:59", False),
    ],
)
def test_when_a_sweep_is_due(tmp_path, schedule, last, at, due):
    (sweep,) = Settings(home=tmp_path, sweeps=[{"name": "a", **schedule}]).sweeps
    since = moment("2026-11-25T01:00")
    assert is_due(sweep, None if last is None else ran(last), moment(at), since=since) is due


@pytest.mark.parametrize(
    ("sweeps", "says"),
    [
        ('[{"name": "a"}]', "every_minutes"),
        ('[{"name": "a", "every_minutes": 5, "at": ["02:00"]}]', "not both"),
        ('[{"name": "a", "at": ["25:00"]}]', "at"),
        ('[{"name": "a", "every_minutes": 5}, {"name": "a", "every_minutes": 6}]', "one name"),
    ],
)
def test_wrong_sweeps_are_named(sweeps, says):
    with pytest.raises(SettingsError, match=says):
        Settings.load({"AGATSTON_SWEEPS": sweeps})


def test_an_archive_that_the_settings_do_not_have(tmp_path):
    settings = Settings(home=tmp_path, sweeps=[SWEEP | {"days": 1, "archive": "nowhere"}])
    (check,) = checks.check_sweeps(settings)
    assert (check.verdict, "nowhere" in check.text) == ("FAIL", True)
