"""Sweeps against real archives, and what is remembered of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import archive
import peers
import pytest
import rows
from api_client import serving
from dicom_series import pattern, series, write
from pydicom.uid import generate_uid

from calcium.errors import SettingsError
from service import checks, retrievals
from service.admission import Admission
from service.inbox import Inbox
from service.settings import Settings
from service.store import Store
from service.sweeps import Sweeper, is_due
from service.tables import Retrieval

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


def test_only_one_process_runs_a_sweep(home):
    _, make = home
    first, settings = make("A@127.0.0.1:1")
    second, _ = make("A@127.0.0.1:1")
    second._owner = "scp@elsewhere:1"
    assert first._ours(settings.sweeps[0])
    assert not second._ours(settings.sweeps[0])


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
