"""Alerts: what a person must look at."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select

from service.tables import Alert, now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)


def raise_alert(session: Session, kind: str, subject: str, text: str) -> Alert:
    """Raise an alert, or count it up where the same one waits for its acknowledgement.

    Parameters
    ----------
    kind
        Stable code, e.g. ``conflicting_instance``.
    subject
        UID, job id or destination that it is about.
    text
        In words, without patient data.
    """
    open_one = select(Alert).where(
        Alert.kind == kind, Alert.subject == subject[:128], Alert.acknowledged_at.is_(None)
    )
    alert = session.scalars(open_one).first()
    if alert is None:
        alert = Alert(kind=kind, subject=subject[:128], text=text)
        session.add(alert)
        log.warning("alert %s: %s [%s]", kind, text, subject)
    else:
        alert.count += 1
        alert.text, alert.last_at = text, now()
    return alert


def clear_alert(session: Session, kind: str, subject: str) -> None:
    """Acknowledge an alert whose cause is gone."""
    for alert in session.scalars(
        select(Alert).where(Alert.kind == kind, Alert.subject == subject, Alert.acknowledged_at.is_(None))
    ):
        alert.acknowledged_at = now()
