"""The life of a delivery on both databases."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from pydicom.uid import generate_uid
from rows import add_job
from sqlalchemy import select, update

from service import deliveries
from service.database import Database, upgrade
from service.leases import LeaseLostError
from service.tables import Alert, Delivery, now


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
def delivery_id(database):
    with database.transaction() as session:
        add_job(session, agatston=10.0, delivery="pending")
        session.execute(update(Delivery).values(attempts=0))
        return session.scalars(select(Delivery.id)).one()


def row(database, delivery_id):
    with database.reading() as session:
        return session.get_one(Delivery, delivery_id)


def change(database, delivery_id, **values):
    with database.transaction() as session:
        session.execute(update(Delivery).where(Delivery.id == delivery_id).values(**values))


def test_it_is_claimed_once_by_many(database, delivery_id):
    claims = []
    threads = [
        threading.Thread(target=lambda n=n: claims.append(deliveries.claim(database, delivery_id, f"w{n}")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (claimed,) = [claim for claim in claims if claim]
    assert (claimed.attempt, claimed.stored, claimed.destination) == (1, False, "pacs")


def test_without_commitment_stored_is_delivered(database, delivery_id):
    claimed = deliveries.claim(database, delivery_id, "w")
    deliveries.record_stored(database, claimed)
    done = row(database, delivery_id)
    assert done.state == "delivered"
    assert done.delivered_at is not None
    with pytest.raises(LeaseLostError):
        deliveries.record_stored(database, claimed)


@pytest.mark.parametrize("answer", ["committed", "failed", "never"])
def test_with_commitment_it_waits_for_the_answer(database, delivery_id, answer):
    claimed = deliveries.claim(database, delivery_id, "w")
    transaction = generate_uid()
    deliveries.record_stored(database, claimed, transaction_uid=transaction)
    assert row(database, delivery_id).state == "stored"
    assert deliveries.claim(database, delivery_id, "w") is None
    uid = claimed.sop_instance_uid
    if answer == "never":
        change(database, delivery_id, not_before=now())
        again = deliveries.claim(database, delivery_id, "w")
        assert again.stored
        change(database, delivery_id, lease_until=now() - timedelta(seconds=1))
        deliveries.take_back_expired(database)  # the one that asked again died: it still is stored
        assert deliveries.claim(database, delivery_id, "w").stored
        return
    committed, failed = ([uid], []) if answer == "committed" else ([], [uid])
    assert deliveries.record_commitment(database, transaction, committed=committed, failed=failed) == 1
    assert row(database, delivery_id).state == ("delivered" if answer == "committed" else "pending")
    assert deliveries.record_commitment(database, generate_uid(), committed=[uid], failed=[]) == 0


def test_failures_wait_longer_up_to_a_cap_and_give_up_after_days(database, delivery_id):
    waits = []
    for _ in range(4):
        claimed = deliveries.claim(database, delivery_id, "w")
        before = now()
        assert (
            deliveries.record_failure(database, claimed, "no answer", first_seconds=10, cap_seconds=30)
            == "pending"
        )
        waits.append((row(database, delivery_id).not_before - before).total_seconds())
        change(database, delivery_id, not_before=now())
    assert waits == pytest.approx([10, 20, 30, 30], abs=2)
    change(database, delivery_id, created_at=now() - timedelta(days=15))
    claimed = deliveries.claim(database, delivery_id, "w")
    assert deliveries.record_failure(database, claimed, "no answer") == "refused"
    with database.reading() as session:
        assert session.scalars(select(Alert.kind)).all() == ["delivery_refused"]
    assert deliveries.resend(database, delivery_id)
    assert deliveries.claim(database, delivery_id, "w") is not None


def test_what_is_refused_goes_to_the_fallback_once(database, delivery_id):
    for _ in range(2):
        claimed = deliveries.claim(database, delivery_id, "w")
        deliveries.record_failure(database, claimed, "0122", for_good=True, fallback="second")
        deliveries.resend(database, delivery_id)
    with database.reading() as session:
        assert sorted(session.scalars(select(Delivery.destination))) == ["pacs", "second"]


def test_a_dead_senders_delivery_is_due_again(database, delivery_id):
    claimed = deliveries.claim(database, delivery_id, "w")
    assert deliveries.take_back_expired(database) == 0
    change(database, delivery_id, lease_until=now() - timedelta(seconds=1))
    assert deliveries.take_back_expired(database) == 1
    assert deliveries.due(database) == [delivery_id]
    with pytest.raises(LeaseLostError):
        deliveries.record_stored(database, claimed)


def test_handing_back_counts_no_attempt(database, delivery_id):
    deliveries.hand_back(database, deliveries.claim(database, delivery_id, "w"))
    assert deliveries.claim(database, delivery_id, "w").attempt == 1


def test_overdue_deliveries_raise_one_alert_that_delivery_clears(database, delivery_id):
    assert deliveries.alert_overdue(database, after_seconds=3600) == 0
    change(database, delivery_id, created_at=now() - timedelta(hours=2))
    for _ in range(3):
        assert deliveries.alert_overdue(database, after_seconds=3600) == 1
    with database.reading() as session:
        (alert,) = session.scalars(select(Alert)).all()
        assert (alert.count, alert.acknowledged_at) == (3, None)
    deliveries.record_stored(database, deliveries.claim(database, delivery_id, "w"))
    with database.reading() as session:
        assert session.scalars(select(Alert)).one().acknowledged_at is not None


def test_hints_are_taken_once_until_they_are_stale(database, delivery_id):
    past = now() - timedelta(seconds=60)
    assert deliveries.take_for_dispatch(database, older_than=past) == [delivery_id]
    assert deliveries.take_for_dispatch(database, older_than=past) == []
