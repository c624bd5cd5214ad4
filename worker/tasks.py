"""The Celery tasks: a message names a row, the row says what is to be done."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from service.database import UNAVAILABLE
from service.dispatch import DELIVER_TASK, SCORE_TASK
from worker import delivery

if TYPE_CHECKING:
    from celery import Celery

    from worker.node import WorkerNode
    from worker.scorers import Scorers

log = logging.getLogger(__name__)


def register_scoring(app: Celery, node: WorkerNode, scorers: Scorers) -> None:
    """Add ``agatston.score(job_id)``."""
    from worker import scoring_job  # noqa: PLC0415 (draws torch in, which a sender of reports does not need)

    @app.task(name=SCORE_TASK)
    def score(job_id: str) -> None:
        if node.stopping.is_set():
            return  # the row still waits, and the keeper sends another hint
        try:
            scoring_job.score(node, scorers, job_id)
        except UNAVAILABLE as error:
            log.warning("job %s not claimed, no database: %s", job_id, type(error).__name__)


def register_delivery(app: Celery, node: WorkerNode) -> None:
    """Add ``agatston.deliver(delivery_id)``."""

    @app.task(name=DELIVER_TASK)
    def deliver(delivery_id: int) -> None:
        if node.stopping.is_set():
            return
        try:
            delivery.deliver(node, delivery_id)
        except UNAVAILABLE as error:
            log.warning("delivery %s left, no database: %s", delivery_id, type(error).__name__)
