"""Answers scanners that ask us to commit to their slices (storage commitment, PS3.4 Annex J, as its SCP).

A request becomes a row before N-ACTION is answered with success. The answer (N-EVENT-REPORT) goes out on the
same association where that still stands, else on a new one to the address of the peer, repeated for a day.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from calcium.errors import AgatstonError
from service import alerts, scu
from service.addresses import address
from service.tables import CommitmentRequest, Instance, now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from service.database import Database
    from service.settings import Settings
    from service.store import Store

log = logging.getLogger(__name__)

PENDING, ANSWERED, ABANDONED = "pending", "answered", "abandoned"
SAME_ASSOCIATION_SECONDS = 5.0  # so long the answer on the same association may take before a new one is tried
RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS = 10.0, 600.0
GIVE_UP = timedelta(days=1)
CLASS_INSTANCE_CONFLICT = 0x0119  # Failure Reason (0008,1197), PS3.3 section C.14.1.1
BATCH = 500

Committed = list[tuple[str, str]]
Failed = list[tuple[str, str, int]]


def request(
    database: Database, calling_ae: str, transaction_uid: str, references: Sequence[tuple[str, str]]
) -> int:
    """Remember a request; return the id of its row. The same request again is to be answered again."""
    with database.transaction() as session:
        row = session.scalars(
            select(CommitmentRequest).where(
                CommitmentRequest.calling_ae == calling_ae, CommitmentRequest.transaction_uid == transaction_uid
            )
        ).first()
        if row is None:
            row = CommitmentRequest(calling_ae=calling_ae, transaction_uid=transaction_uid)
            session.add(row)
        row.references = [list(pair) for pair in references]
        row.state, row.attempts = PENDING, 0
        row.not_before = now() + timedelta(seconds=SAME_ASSOCIATION_SECONDS)
        session.flush()
        return row.id


def judge(session: Session, store: Store, references: Sequence[Sequence[str]]) -> tuple[Committed, Failed]:
    """Tell apart what lies durably here, and what does not and why."""
    committed: Committed = []
    failed: Failed = []
    held: dict[str, set[str]] = {}
    for start in range(0, len(references), BATCH):
        uids = [reference[1] for reference in references[start : start + BATCH]]
        rows = select(Instance.sop_instance_uid, Instance.sop_class_uid, Instance.key).where(
            Instance.sop_instance_uid.in_(uids), Instance.removed_at.is_(None)
        )
        for row in session.execute(rows):
            if store.exists(row.key):
                held.setdefault(row.sop_instance_uid, set()).add(row.sop_class_uid)
    for sop_class_uid, sop_instance_uid in references:
        classes = held.get(sop_instance_uid)
        if classes is None:
            failed.append((sop_class_uid, sop_instance_uid, scu.NO_SUCH_OBJECT))
        elif sop_class_uid not in classes:
            failed.append((sop_class_uid, sop_instance_uid, CLASS_INSTANCE_CONFLICT))
        else:
            committed.append((sop_class_uid, sop_instance_uid))
    return committed, failed


def record_answered(database: Database, request_id: int) -> None:
    """Record that the scanner took the answer."""
    with database.transaction() as session:
        row = session.get_one(CommitmentRequest, request_id)
        row.state, row.answered_at = ANSWERED, now()


def answer_due(database: Database, store: Store, settings: Settings) -> int:
    """Answer what is due on new associations; return how many answers were taken."""
    with database.reading() as session:
        due = select(CommitmentRequest).where(
            CommitmentRequest.state == PENDING, CommitmentRequest.not_before <= now()
        )
        rows = session.scalars(due.limit(BATCH)).all()
    return sum(_answer(database, store, settings, row) for row in rows)


def _answer(database: Database, store: Store, settings: Settings, row: CommitmentRequest) -> bool:
    peer = settings.peer(row.calling_ae)
    to = None if peer is None else address(settings, peer)
    if to is None:
        text = "asks for storage commitment, but the settings give no host and port to answer to"
        _abandon(database, row, text)
        return False
    with database.reading() as session:
        committed, failed = judge(session, store, row.references)
    try:
        scu.report_commitment(to, row.transaction_uid, committed, failed, calling_ae=settings.ae_title)
    except AgatstonError as error:
        log.warning("the answer to a storage commitment does not reach %s: %s", to, error)
        if now() - row.created_at > GIVE_UP:
            _abandon(database, row, "does not take the answers to its storage commitments")
            return False
        with database.transaction() as session:
            again = session.get_one(CommitmentRequest, row.id)
            again.attempts += 1
            delay = min(RETRY_CAP_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(again.attempts - 1, 30))
            again.not_before = now() + timedelta(seconds=delay)
        return False
    record_answered(database, row.id)
    return True


def _abandon(database: Database, row: CommitmentRequest, text: str) -> None:
    with database.transaction() as session:
        session.get_one(CommitmentRequest, row.id).state = ABANDONED
        alerts.raise_alert(session, "commitment_unanswered", row.calling_ae, f"{row.calling_ae} {text}")
