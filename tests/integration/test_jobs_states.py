"""The life of a job on both databases: each step once, and only by who holds the lease."""

from __future__ import annotations

import subprocess
import threading
from datetime import timedelta

import pytest
from pydicom.uid import generate_uid
from receiving import settings as make_settings
from sqlalchemy import select, update

from calcium.job import TRANSITIONS, JobState
from service import beats, closing, deliveries, jobs
from service.database import Database, upgrade
from service.leases import LeaseLostError, retry_delay
from service.settings import Destination
from service.tables import Alert, Delivery, Instance, Job, JobEvent, OutputObject, Result, Series, now

PACS = Destination(name="pacs", aet="PACS", host="h", port=104)
PICTURES = Destination(name="pictures", aet="PIC", host="h", port=104, kinds=("summary",), sources=("CT1",))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'node.db'}")
    else:
        made = Database(request.getfixturevalue("new_postgres_database"))
    upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path, peers='[{"aet": "STAT", "lane": "urgent"}]')


def receive(database, count=3, *, series_id=None, calling="CT1"):
    """Add instances to a series, as the inbox does, and return the id of the series."""
    with database.transaction() as session:
        if series_id is None:
            series = Series(
                study_instance_uid=generate_uid(),
                series_instance_uid=generate_uid(),
                calling_ae=calling,
                called_ae="A",
            )
            session.add(series)
            session.flush()
        else:
            series = session.get_one(Series, series_id)
            series.closed_at = series.closed_by = series.released_at = None
            series.last_received_at = series.opened_at = now()
        for _ in range(count):
            uid = generate_uid()
            session.add(
                Instance(
                    series_id=series.id,
                    sop_instance_uid=uid,
                    sop_class_uid="1.2",
                    transfer_syntax_uid="1.2",
                    key=f"inbox/{uid}",
                    size_bytes=1,
                    sha256="0" * 64,
                )
            )
        return series.id


def new_job(database, settings, **kwargs):
    job_id = closing.force(database, settings, receive(database, **kwargs))
    assert job_id is not None
    return job_id


def row(database, job_id):
    with database.reading() as session:
        return session.get_one(Job, job_id)


def events(database, job_id):
    with database.reading() as session:
        found = select(JobEvent.event).where(JobEvent.job_id == job_id).order_by(JobEvent.id)
        return list(session.scalars(found))


def let_lease_run_out(database, job_id):
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now() - timedelta(seconds=1)))


def make_due(database, job_id):
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(not_before=now()))


def result():
    return Result(
        agatston=12.0, volume_mm3=10.0, risk_group="moderate", heart_box_mm=[[0, 0, 0], [1, 1, 1]],
        slice_scores=[], weights={},
    )  # fmt: skip


def objects(*kinds):
    return [jobs.NewObject(kind, "1.2", uid := generate_uid(), f"outbox/{uid}", 1, "0" * 64) for kind in kinds]


def test_a_job_is_claimed_once_by_many(database, settings):
    job_id = new_job(database, settings)
    claims = []

    def claim(number):
        claims.append(jobs.claim(database, job_id, f"worker{number}"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (claimed,) = [claim for claim in claims if claim is not None]
    assert (claimed.attempt, len(claimed.keys), claimed.calling_ae) == (1, 3, "CT1")
    assert row(database, job_id).state == JobState.RUNNING


def test_a_result_its_objects_and_their_deliveries_are_one_step(database, settings):
    job_id = new_job(database, settings)
    claimed = jobs.claim(database, job_id, "w")
    ids = jobs.finish_scored(
        database, claimed, result(), objects("sr3d", "sr", "summary"), (PACS, PICTURES), seconds={"read": 1.5}
    )
    job = row(database, job_id)
    assert (job.state, job.seconds, job.lease_owner) == ("scored", {"read": 1.5}, None)
    assert job.ended_at is not None
    with database.reading() as session:
        rows = session.execute(
            select(Delivery.destination, OutputObject.kind).join(
                OutputObject, OutputObject.id == Delivery.object_id
            )
        ).all()
        assert session.scalars(select(Result)).one().job_id == job_id
    # One report for each destination, not the same in two SOP classes.
    assert sorted(map(tuple, rows)) == [("pacs", "sr3d"), ("pacs", "summary"), ("pictures", "summary")]
    assert sorted(ids) == sorted(deliveries.due(database))
    assert events(database, job_id) == ["open", "claim", "score"]


def test_nothing_is_recorded_without_the_lease(database, settings):
    job_id = new_job(database, settings)
    lost = jobs.claim(database, job_id, "dead")
    let_lease_run_out(database, job_id)
    assert jobs.take_back_expired(database) == [job_id]
    again = jobs.claim(database, job_id, "alive")
    for late in (
        lambda: jobs.finish_scored(database, lost, result(), objects("sr3d"), (PACS,)),
        lambda: jobs.finish_failed(database, lost, "x", "x"),
        lambda: jobs.finish_not_eligible(database, lost, "x", "x"),
        lambda: jobs.retry_later(database, lost, "x", "x"),
        lambda: jobs.hand_back(database, lost),
        lambda: jobs.heartbeat(database, lost),
    ):
        with pytest.raises(LeaseLostError):
            late()
    with database.reading() as session:
        assert session.scalars(select(Result)).all() == []
        assert session.scalars(select(OutputObject)).all() == []
    jobs.finish_scored(database, again, result(), objects("sr3d"), (PACS,))
    with pytest.raises(LeaseLostError):
        jobs.finish_scored(database, again, result(), objects("sr3d"), (PACS,))
    assert row(database, job_id).kills == 1


def test_a_heartbeat_keeps_the_job(database, settings):
    job_id = new_job(database, settings)
    claimed = jobs.claim(database, job_id, "w")
    let_lease_run_out(database, job_id)
    jobs.heartbeat(database, claimed)
    assert jobs.take_back_expired(database) == []


def test_a_job_that_kills_three_workers_is_quarantined_and_can_be_rerun(database, settings):
    job_id = new_job(database, settings)
    for kills in (1, 2, 3):
        assert jobs.claim(database, job_id, "w") is not None
        let_lease_run_out(database, job_id)
        assert jobs.take_back_expired(database) == ([job_id] if kills < 3 else [])
    job = row(database, job_id)
    assert (job.state, job.kills, job.reason_code) == ("quarantined", 3, "quarantined")
    with database.reading() as session:
        assert session.scalars(select(Alert.kind)).all() == ["job_quarantined"]
    jobs.rerun(database, job_id, "operator")
    assert (row(database, job_id).state, row(database, job_id).kills) == ("waiting", 0)
    assert jobs.claim(database, job_id, "w").attempt == 1


def test_retries_wait_longer_and_end(database, settings):
    job_id = new_job(database, settings)
    for attempt in (1, 2, 3):
        claimed = jobs.claim(database, job_id, "w")
        assert claimed.attempt == attempt
        before = now()
        state = jobs.retry_later(
            database, claimed, "resources", "out of memory", first_seconds=10, max_attempts=3
        )
        waits = (row(database, job_id).not_before - before).total_seconds()
        if attempt < 3:
            assert state == JobState.WAITING
            assert waits == pytest.approx(10 * 2 ** (attempt - 1), abs=2)
            assert jobs.claim(database, job_id, "w") is None  # not yet due
            make_due(database, job_id)
    assert state == JobState.FAILED
    assert row(database, job_id).reason_code == "resources"
    assert retry_delay(500, jobs.RETRY_FIRST_SECONDS, jobs.RETRY_CAP_SECONDS).total_seconds() == 3600


def test_the_next_attempt_knows_why_the_last_one_failed(database, settings):
    job_id = new_job(database, settings)
    jobs.retry_later(database, jobs.claim(database, job_id, "w"), "resources", "out of memory")
    make_due(database, job_id)
    assert jobs.claim(database, job_id, "w").last_reason_code == "resources"


def test_handing_back_counts_no_attempt(database, settings):
    job_id = new_job(database, settings)
    jobs.hand_back(database, jobs.claim(database, job_id, "w"))
    assert jobs.claim(database, job_id, "w").attempt == 1


def test_a_cancelled_job_loses_its_worker(database, settings):
    job_id = new_job(database, settings)
    claimed = jobs.claim(database, job_id, "w")
    jobs.cancel(database, job_id, "operator")
    with pytest.raises(LeaseLostError):
        jobs.heartbeat(database, claimed)
    with pytest.raises(jobs.NotAllowedError):
        jobs.cancel(database, job_id, "operator")
    with pytest.raises(jobs.NoSuchJobError):
        jobs.rerun(database, "no-such-job", "operator")


def test_the_urgent_lane_goes_first(database, settings):
    normal = new_job(database, settings)
    urgent = new_job(database, settings, calling="STAT")
    expedited = new_job(database, settings)
    jobs.expedite(database, expedited, "operator")
    order = [jobs.claim_next(database, "w").job_id for _ in range(3)]
    assert order == [urgent, expedited, normal]
    assert jobs.claim_next(database, "w") is None


def test_the_same_set_makes_no_second_job(database, settings):
    series_id = receive(database)
    first = closing.force(database, settings, series_id)
    receive(database, 0, series_id=series_id)
    assert closing.force(database, settings, series_id) is None
    assert row(database, first).state == "waiting"


@pytest.mark.parametrize("state", ["waiting", "running", "scored", "failed"])
def test_later_slices_supersede(database, settings, state):
    series_id = receive(database)
    first = closing.force(database, settings, series_id)
    claimed = None if state == "waiting" else jobs.claim(database, first, "w")
    if state == "scored":
        jobs.finish_scored(database, claimed, result(), objects("sr3d", "summary"), (PACS,))
        left, stays = deliveries.due(database)
        sent = deliveries.claim(database, left, "w")
        deliveries.record_stored(database, sent)
    if state == "failed":
        jobs.finish_failed(database, claimed, "x", "x")
    receive(database, 2, series_id=series_id)
    assert jobs.claim(database, first, "other") is None  # an open series waits
    second = closing.force(database, settings, series_id)
    assert row(database, first).state == "superseded"
    with database.reading() as session:
        assert all(alert.acknowledged_at for alert in session.scalars(select(Alert)))
    job = jobs.claim(database, second, "w")
    assert (job.revision, len(job.keys)) == (2, 5)
    if state == "running":
        with pytest.raises(LeaseLostError):
            jobs.finish_scored(database, claimed, result(), objects("sr3d"), (PACS,))
    if state == "scored":
        # What reached an archive is named as predecessor; what did not leave stays here.
        assert job.predecessors == {sent.kind: sent.sop_instance_uid}
        assert deliveries.claim(database, stays, "w") is None
    else:
        assert job.predecessors == {}


def test_a_job_sees_its_own_set_only(database, settings):
    series_id = receive(database)
    first = closing.force(database, settings, series_id)
    claimed = jobs.claim(database, first, "w")
    receive(database, 2, series_id=series_id)
    with database.reading() as session:
        assert len(jobs.instances_of(session, session.get_one(Job, first))) == len(claimed.keys) == 3


def test_every_transition_is_in_the_history(database, settings):
    job_id = new_job(database, settings)
    jobs.hand_back(database, jobs.claim(database, job_id, "w"))
    jobs.finish_not_eligible(database, jobs.claim(database, job_id, "w"), "too_thick", "5 mm")
    jobs.rerun(database, job_id, "operator")
    jobs.cancel(database, job_id, "operator")
    assert events(database, job_id) == ["open", "claim", "hand_back", "claim", "refuse", "rerun", "cancel"]
    assert set(events(database, job_id)) - {"open"} <= set(TRANSITIONS)


def test_hints_are_taken_once_until_they_are_stale(database, settings):
    job_id = new_job(database, settings)
    past = now() - timedelta(seconds=60)
    assert jobs.take_for_dispatch(database, older_than=past) == [(job_id, "normal")]
    assert jobs.take_for_dispatch(database, older_than=past) == []
    assert jobs.take_for_dispatch(database, older_than=now() + timedelta(seconds=1)) == [(job_id, "normal")]


def test_a_busy_queue_does_not_fill_with_copies(database, settings):
    ids = [new_job(database, settings, count=1) for _ in range(6)]
    assert len(jobs.take_for_dispatch(database, older_than=None, limit=4)) == 4
    assert len(jobs.take_for_dispatch(database, older_than=None)) == 2
    later = now() + timedelta(seconds=1)
    assert [job_id for job_id, _ in jobs.take_for_dispatch(database, older_than=later, again=3)] == ids[:3]
    assert jobs.take_for_dispatch(database, older_than=None) == []


def test_a_dead_worker_of_this_host_is_not_waited_for(database, settings):
    job_id = new_job(database, settings)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert jobs.claim(database, job_id, f"worker@{beats.HOST}:{ended.pid}") is not None
    assert jobs.take_back_expired(database) == [job_id]
    for alive in (beats.process_name("worker"), f"worker@elsewhere:{ended.pid}"):
        assert jobs.claim(database, job_id, alive) is not None
        assert jobs.take_back_expired(database) == []
        let_lease_run_out(database, job_id)
        jobs.take_back_expired(database, max_kills=9)
