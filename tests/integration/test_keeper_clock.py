"""A clock that is set back: nothing waits until it is there again."""

from __future__ import annotations

from datetime import timedelta

import peers
import pytest
from receiving import ct_series, receiver
from rows import add_job
from sqlalchemy import select, update

from service import deliveries, jobs, keeper, leases, reconcile
from service.leases import LeaseLostError
from service.tables import Delivery, Job, Lock, Series, now

DAY = timedelta(days=1)


def test_series_jobs_and_deliveries_go_on(tmp_path):
    with receiver(tmp_path, series_idle_seconds=0.2, series_release_seconds=0.1) as node:
        node.send(ct_series(2))
        future = now() + DAY
        with node.database.transaction() as session:
            session.execute(update(Series).values(last_received_at=future, opened_at=future, released_at=None))
        assert reconcile.clamp_times(node.database, node.settings) > 0
        peers.wait_for(lambda: node.keeper.round() or node.hints.jobs, what="a job")

        with node.database.transaction() as session:
            session.execute(update(Job).values(not_before=future, dispatched_at=future))
        reconcile.clamp_times(node.database, node.settings)
        claimed = jobs.claim(node.database, node.hints.jobs[0], "w")
        assert claimed is not None

        with node.database.transaction() as session:
            session.execute(update(Job).values(lease_until=future))
            add_job(session, agatston=1.0, delivery="pending")
            session.execute(update(Delivery).values(not_before=future))
        reconcile.clamp_times(node.database, node.settings)
        with node.database.reading() as session:
            until = session.get_one(Job, claimed.job_id).lease_until
        assert timedelta() < until - now() <= timedelta(seconds=jobs.LEASE_SECONDS)
        assert len(deliveries.due(node.database)) == 1
        assert reconcile.clamp_times(node.database, node.settings) == 0


def test_honest_waits_are_left_alone(tmp_path):
    with receiver(tmp_path) as node:
        with node.database.transaction() as session:
            add_job(session, state="waiting", delivery=None)
            session.execute(update(Job).values(not_before=now() + timedelta(seconds=jobs.RETRY_CAP_SECONDS)))
        assert reconcile.clamp_times(node.database, node.settings) == 0


def test_a_keeper_from_the_future_is_replaced(tmp_path):
    with receiver(tmp_path) as node:
        assert keeper.elect(node.database, "a")
        with node.database.transaction() as session:
            session.execute(update(Lock).values(until=now() + DAY))
        assert keeper.elect(node.database, "b")
        with node.database.reading() as session:
            assert session.scalars(select(Lock.owner)).one() == "b"


def test_a_clock_that_is_set_forward_costs_an_attempt_and_nothing_else(tmp_path, monkeypatch):
    with receiver(tmp_path) as node:
        with node.database.transaction() as session:
            job_id = add_job(session, state="waiting", delivery=None).id
        slow = jobs.claim(node.database, job_id, "worker@elsewhere:1")
        for module in (jobs, keeper, leases):
            monkeypatch.setattr(module, "now", lambda: now() + DAY)
        # Its lease seems to have run out: another worker gets the job, and the first can record nothing.
        assert jobs.take_back_expired(node.database) == [job_id]
        second = jobs.claim(node.database, job_id, "worker@elsewhere:2")
        with pytest.raises(LeaseLostError):
            jobs.finish_not_eligible(node.database, slow, "contrast", "contrast")
        jobs.finish_not_eligible(node.database, second, "contrast", "contrast")
        with node.database.reading() as session:
            assert session.get_one(Job, job_id).state == "not_eligible"
