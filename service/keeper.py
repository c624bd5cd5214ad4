"""The keeper puts disk, database and queue in agreement, again and again; one in the whole node is elected.

Every round: series that are complete get their jobs, leases of dead workers are taken back, and what waits
without a fresh hint gets one. At start and every minute: files without rows are adopted, rows without files
raise alerts, unfinished files and those of jobs that ended without them are removed, late deliveries raise
alerts, and slices past their retention go.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update

from service import closing, deliveries, jobs, reconcile
from service.beats import alive, is_dead
from service.database import UNAVAILABLE
from service.loops import Loop
from service.tables import Lock, ProcessBeat, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.database import Database
    from service.dispatch import Dispatcher
    from service.inbox import Inbox
    from service.settings import Settings
    from service.store import Store

log = logging.getLogger(__name__)

LOCK_NAME = "keeper"
LOCK_SECONDS = 30.0  # a dead keeper is replaced after so long
SWEEP_SECONDS = 60.0  # between two comparisons of disk and database
TAKE_OVER_SECONDS = 5.0  # between two looks for reconstructions that have to take over
TAKE_OVER_BACK_SECONDS = 2 * 86400.0  # the first look of a keeper goes so far back
TAKE_OVER_SLACK_SECONDS = 60.0  # later ones to the last one, and a little further: clocks differ
CLOCK_SLACK = timedelta(seconds=LOCK_SECONDS)
WHOLE_SECONDS = 3600.0  # between two that look at every file and row
CHANGED_SECONDS = 10 * 60.0  # the others look into folders that changed so lately: several sweeps see each
DEAD_BEAT_DAYS = 1.0  # beats of processes that ended are forgotten after so long


class Keeper:
    """The keeper's thread.

    Parameters
    ----------
    owner
        Name of this process; the elected keeper's name stands in the row of its lock.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: Store,
        inbox: Inbox,
        dispatcher: Dispatcher,
        *,
        owner: str,
    ) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._inbox = inbox
        self._dispatcher = dispatcher
        self._owner = owner
        self._elected_at = -LOCK_SECONDS
        self._swept_at = -SWEEP_SECONDS
        self._whole_at = -WHOLE_SECONDS
        self._took_over_at = -TAKE_OVER_BACK_SECONDS
        self._loop = Loop("keeper", settings.keeper_seconds, self._elected_round)

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def stop(self) -> None:
        """End after the current round, and let another one be elected at once."""
        self._loop.stop()
        try:
            with self._database.transaction() as session:
                session.execute(delete(Lock).where(Lock.name == LOCK_NAME, Lock.owner == self._owner))
        except UNAVAILABLE:
            log.warning("the keeper's lock could not be given back; it runs out by itself")

    def _elected_round(self) -> None:
        if time.monotonic() - self._elected_at >= LOCK_SECONDS / 3:
            if not elect(self._database, self._owner):
                return
            self._elected_at = time.monotonic()
        self.round()

    def round(self) -> None:
        """Do one round."""
        closing.close_due(self._database, self._settings)
        jobs.take_back_expired(self._database)
        deliveries.take_back_expired(self._database)
        passed = time.monotonic() - self._took_over_at
        if passed >= TAKE_OVER_SECONDS:
            back = timedelta(seconds=passed + TAKE_OVER_SLACK_SECONDS)
            closing.let_others_take_over(self._database, now() - back)
            self._took_over_at = time.monotonic()
        self._send_hints()
        if time.monotonic() - self._swept_at >= SWEEP_SECONDS:
            self.sweep()
            self._swept_at = time.monotonic()

    def _send_hints(self) -> None:
        # Hints are sent again only to workers that live: a queue that nobody empties would grow with copies.
        stale = now() - timedelta(seconds=self._settings.redispatch_seconds)
        scorers, senders = (alive(self._database, kind) for kind in ("worker", "sender"))
        due = jobs.take_for_dispatch(
            self._database,
            older_than=stale if scorers else None,
            settle_seconds=self._settings.settle_seconds,
        )
        for job_id, lane in due:
            self._dispatcher.score(job_id, lane)
        for delivery_id in deliveries.take_for_dispatch(self._database, older_than=stale if senders else None):
            self._dispatcher.deliver(delivery_id)

    def sweep(self) -> None:
        """Compare disk and database, each part on its own: a fault in one does not stop the others.

        At first and every hour whole, between only what changed.
        """
        started = time.monotonic()
        whole = started - self._whole_at >= WHOLE_SECONDS
        since = None if whole else time.time() - CHANGED_SECONDS
        if whole:
            self._whole_at = started
        parts: tuple[Callable[[], object], ...] = (
            lambda: reconcile.clamp_times(self._database, self._settings),
            lambda: reconcile.adopt_files(self._store, self._database, self._inbox, changed_since=since),
            lambda: reconcile.sweep_outbox(self._store, self._database, changed_since=since),
            lambda: reconcile.check_rows(self._database, self._store) if whole else None,
            lambda: reconcile.remove_expired(self._database, self._inbox, self._settings.retention_days),
            lambda: deliveries.alert_overdue(
                self._database, after_seconds=self._settings.delivery_alert_seconds
            ),
            self._forget_beats,
        )
        for part in parts:
            elect(self._database, self._owner)  # a long sweep keeps the lock
            try:
                part()
            except UNAVAILABLE:
                raise
            except Exception:
                log.exception("a part of the keeper's sweep failed")

    def _forget_beats(self) -> None:
        with self._database.transaction() as session:
            session.execute(
                delete(ProcessBeat).where(ProcessBeat.seen_at < now() - timedelta(days=DEAD_BEAT_DAYS))
            )


def elect(database: Database, owner: str) -> bool:
    """Take or keep the keeper's lock; False while another process holds it."""
    with database.transaction() as session:
        moment = now()
        until = moment + timedelta(seconds=LOCK_SECONDS)
        kept = session.execute(
            update(Lock)
            # An end far in the future was written before the clock was set back: it never comes.
            .where(Lock.name == LOCK_NAME)
            .where((Lock.owner == owner) | (Lock.until < moment) | (Lock.until > until + CLOCK_SLACK))
            .values(owner=owner, until=until)
        )
        if kept.rowcount:  # type: ignore[attr-defined]
            return True
        held = session.scalars(select(Lock).where(Lock.name == LOCK_NAME).with_for_update()).first()
        if held is not None:
            if is_dead(held.owner):
                held.owner, held.until = owner, until
                return True
            return False
        # Two that insert at once: the second meets the primary key, and its round fails harmlessly.
        session.add(Lock(name=LOCK_NAME, owner=owner, until=until))
        return True
