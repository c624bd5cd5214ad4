"""The keeper: after any crash, disk, database and queue agree again."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import timedelta

import peers
import pytest
from receiving import ct_series, receiver
from rows import beats
from sqlalchemy import select, update

from service import jobs, keeper, reconcile
from service.beats import HOST
from service.database import Database, upgrade
from service.store import outbox_key
from service.tables import Alert, Instance, Job, Lock, Result, Series, now


@pytest.fixture
def node(tmp_path):
    with receiver(
        tmp_path / "home", series_idle_seconds=0.2, series_release_seconds=0.1, redispatch_seconds=0.5
    ) as running:
        yield running


def rows(node, model):
    with node.database.reading() as session:
        return session.scalars(select(model)).all()


def scored(node, count=3, days_ago=0.0):
    """Send a series and score it; let that be some days ago."""
    instances = ct_series(count)
    node.send(instances)
    peers.wait_for(lambda: node.keeper.round() or rows(node, Job)[-1:], what="a job")
    claimed = jobs.claim_next(node.database, "w")
    result = Result(
        agatston=0.0, volume_mm3=0.0, risk_group="very low", heart_box_mm=[], slice_scores=[], weights={}
    )
    jobs.finish_scored(node.database, claimed, result, [], ())
    past = now() - timedelta(days=days_ago)
    with node.database.transaction() as session:
        session.execute(update(Job).where(Job.id == claimed.job_id).values(ended_at=past))
        session.execute(update(Series).values(closed_at=past, last_received_at=past))
    return instances


def test_a_round_closes_dispatches_and_dispatches_again(node):
    node.send(ct_series(3))
    peers.wait_for(lambda: node.keeper.round() or node.hints.jobs, what="a hint")
    (job,) = rows(node, Job)
    assert node.hints.jobs == [job.id]
    node.keeper.round()
    assert node.hints.jobs == [job.id]  # fresh: not yet again
    time.sleep(0.6)
    node.keeper.round()
    assert node.hints.jobs == [job.id]  # no worker lives: the hint waits with the broker
    with node.database.transaction() as session:
        beats(session, "worker")
    node.keeper.round()
    assert node.hints.jobs == [job.id] * 2  # it does not come: the broker lost the hint


def test_a_job_of_a_dead_worker_is_dispatched_at_once(node):
    node.send(ct_series(3))
    peers.wait_for(lambda: node.keeper.round() or node.hints.jobs, what="a hint")
    claimed = jobs.claim(node.database, node.hints.jobs[0], "w", lease_seconds=0.01)
    time.sleep(0.05)
    node.keeper.round()
    assert node.hints.jobs == [claimed.job_id] * 2


def test_a_file_without_a_row_is_adopted(node):
    instances = ct_series(2)
    node.send(instances)
    with node.database.transaction() as session:  # as if the process had died before the row
        lost = session.scalars(select(Instance)).first()
        session.delete(lost)
    node.inbox._series.clear()
    assert reconcile.adopt_files(node.store, node.database, node.inbox, settle_seconds=60) == 0  # too young
    assert reconcile.adopt_files(node.store, node.database, node.inbox, settle_seconds=0) == 1
    adopted = {row.sop_instance_uid: row.sha256 for row in rows(node, Instance)}
    assert adopted[lost.sop_instance_uid] == lost.sha256
    assert rows(node, Series)[0].calling_ae == "SCANNER"
    assert reconcile.adopt_files(node.store, node.database, node.inbox, settle_seconds=0) == 0
    assert node.send(instances) == [0x0000] * 2  # and the sender's second try is a duplicate


@pytest.mark.parametrize("content", [b"", b"half", b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\xff\xff\xff\xff"])
def test_a_file_that_is_no_instance_is_removed(node, content):
    node.send(ct_series(1))
    key = rows(node, Instance)[0].key
    foreign = key[:-8] + "00000000"[: len(key) - len(key[:-8]) - 4] + ".dcm"
    node.store.path(foreign).write_bytes(content)
    assert reconcile.adopt_files(node.store, node.database, node.inbox, settle_seconds=0) == 0
    assert list(node.store.keys("inbox")) == [key]


def test_unfinished_files_are_removed(node):
    node.send(ct_series(1))
    folder = node.store.path(rows(node, Instance)[0].key).parent
    (folder / ".tmp-dead").write_bytes(b"half")
    old = time.time() - 3600
    os.utime(folder / ".tmp-dead", (old, old))
    (folder / ".tmp-alive").write_bytes(b"half")
    reconcile.adopt_files(node.store, node.database, node.inbox)
    assert [path.name for path in folder.glob(".tmp-*")] == [".tmp-alive"]


def test_a_row_without_a_file_raises_an_alert(node):
    node.send(ct_series(3))
    gone = rows(node, Instance)[1]
    node.store.delete([gone.key])
    assert reconcile.check_rows(node.database, node.store) == 1
    (alert,) = rows(node, Alert)
    assert (alert.kind, alert.subject) == ("file_missing", gone.sop_instance_uid)


def test_retention_removes_files_and_keeps_rows(node):
    instances = scored(node, days_ago=8)
    assert reconcile.remove_expired(node.database, node.inbox, 30) == 0
    assert reconcile.remove_expired(node.database, node.inbox, 7) == 3
    assert list(node.store.keys("inbox")) == []
    assert all(row.removed_at for row in rows(node, Instance))
    assert reconcile.check_rows(node.database, node.store) == 0
    assert reconcile.remove_expired(node.database, node.inbox, 7) == 0
    # One late slice is not taken for a whole series ...
    late = ct_series(1)[0]
    late.StudyInstanceUID, late.SeriesInstanceUID = (
        instances[0].StudyInstanceUID,
        instances[0].SeriesInstanceUID,
    )
    node.send([late])
    time.sleep(0.5)
    node.keeper.round()
    assert len(rows(node, Job)) == 1
    assert [alert.kind for alert in rows(node, Alert)] == ["late_slices"]
    # ... but with all the others it is.
    node.send(instances)
    peers.wait_for(lambda: node.keeper.round() or len(rows(node, Job)) == 2, what="a second revision")
    assert len(list(node.store.keys("inbox"))) == 4
    assert [job.revision for job in rows(node, Job)] == [1, 2]


def test_retention_waits_for_deliveries_and_jobs(node):
    instances = ct_series(2)
    node.send(instances)
    peers.wait_for(lambda: node.keeper.round() or rows(node, Job), what="a job")
    past = now() - timedelta(days=9)
    with node.database.transaction() as session:
        session.execute(update(Series).values(closed_at=past, last_received_at=past))
    assert reconcile.remove_expired(node.database, node.inbox, 7) == 0


def test_a_retention_that_died_is_completed(node):
    scored(node)
    with node.database.transaction() as session:
        session.execute(update(Instance).values(removed_at=now()))
    reconcile.adopt_files(node.store, node.database, node.inbox, settle_seconds=0)
    assert list(node.store.keys("inbox")) == []


def test_one_of_several_keepers_is_elected_and_replaced(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    upgrade(database)
    assert keeper.elect(database, "a")
    assert keeper.elect(database, "a")
    assert not keeper.elect(database, "b")
    with database.transaction() as session:
        session.execute(update(Lock).values(until=now() - timedelta(seconds=1)))
    assert keeper.elect(database, "b")
    assert not keeper.elect(database, "a")
    database.dispose()


def test_the_keepers_thread_survives_a_failing_round(node, monkeypatch):
    failures = []

    def fail(*args):
        failures.append(args)
        raise RuntimeError("boom")

    monkeypatch.setattr(keeper.closing, "close_due", fail)
    node.keeper.start()
    peers.wait_for(lambda: len(failures) >= 2, what="a second round")
    monkeypatch.undo()
    node.send(ct_series(1))
    peers.wait_for(lambda: node.hints.jobs, what="a hint")
    node.keeper.stop()
    assert rows(node, Lock) == []


def test_an_adopted_series_still_knows_its_sender(node):
    node.send(ct_series(2), ae_title="CT1")
    with node.database.transaction() as session:
        for model in (Instance, Series):
            for row in session.scalars(select(model)):
                session.delete(row)
            session.flush()
    node.inbox._series.clear()
    assert reconcile.adopt_files(node.store, node.database, node.inbox, settle_seconds=0) == 2
    (series,) = rows(node, Series)
    assert (series.calling_ae, series.called_ae) == ("CT1", "AGATSTON")


def test_a_dead_keeper_of_this_host_is_replaced_at_once(node):
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert keeper.elect(node.database, f"scp@{HOST}:{ended.pid}")
    assert keeper.elect(node.database, "b")
    assert not keeper.elect(node.database, "c")


def test_outbox_files_of_a_lost_lease_are_removed(node):
    scored(node)
    node.send(ct_series(2))
    peers.wait_for(lambda: node.keeper.round() or len(rows(node, Job)) == 2, what="a second job")
    ended, waits = rows(node, Job)
    # Both had a worker that died between file and row; the one that waits writes its files again.
    left = outbox_key(ended.id, "sr3d", "1.2.3")
    again = outbox_key(waits.id, "sr3d", "1.2.4")
    for key in (left, again):
        node.store.put(key, b"report")
    assert reconcile.sweep_outbox(node.store, node.database) == 0  # too young
    assert reconcile.sweep_outbox(node.store, node.database, settle_seconds=0) == 1
    assert list(node.store.keys("outbox")) == [again]
