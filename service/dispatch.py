"""Hints to the workers: Celery tasks sent by name. The row is the truth; a lost hint costs a minute, no job.

`celery_config` is the one place that describes the queues: the producer here and the worker's app both use it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import Celery

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger(__name__)

SCORE_TASK, DELIVER_TASK = "agatston.score", "agatston.deliver"
URGENT, NORMAL, DELIVERY = QUEUES = ("urgent", "normal", "delivery")

POLL_SECONDS = 0.2  # of the embedded broker
SEND_SECONDS = 5.0  # a broker that does not take a hint within this time is down
# kombu gives a message whose worker died to another one after this time; the keeper is faster.
VISIBILITY_SECONDS = 3600


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration: JSON messages, three queues, late acknowledgement, no result backend."""
    return {
        "broker_url": settings.broker,
        "broker_transport_options": _transport(settings),
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": SEND_SECONDS,
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": NORMAL,
        "task_create_missing_queues": True,
        "task_routes": {SCORE_TASK: {"queue": NORMAL}, DELIVER_TASK: {"queue": DELIVERY}},
        # A task that dies with its worker stays with the broker; should it run twice, the claim stops one.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "enable_utc": True,
    }


def _transport(settings: Settings) -> dict[str, Any]:
    if settings.broker.startswith("filesystem:"):
        folder = settings.home / "broker"
        for name in ("queue", "control"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        return {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
            "polling_interval": POLL_SECONDS,
        }
    return {
        "visibility_timeout": VISIBILITY_SECONDS,
        "socket_timeout": SEND_SECONDS,
        "socket_connect_timeout": SEND_SECONDS,
        "retry_on_timeout": False,
        "max_retries": 1,
        "interval_start": 0,
        "interval_max": 0.2,
    }


class Dispatcher:
    """Sends hints; never raises, for the rows say what waits."""

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("agatston-dispatch", set_as_current=False)
        self._app.conf.update(celery_config(settings))

    def score(self, job_id: str, lane: str) -> bool:
        """Hint that a job waits; False when the broker did not take it."""
        return self._send(SCORE_TASK, job_id, URGENT if lane == URGENT else NORMAL)

    def deliver(self, delivery_id: int) -> bool:
        """Hint that a delivery is due; False when the broker did not take it."""
        return self._send(DELIVER_TASK, delivery_id, DELIVERY)

    def ping(self) -> bool:
        """Tell whether the broker answers."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=SEND_SECONDS)
        except Exception as error:  # noqa: BLE001 (each transport raises its own kinds)
            log.warning("the broker does not answer: %s", type(error).__name__)
            return False
        return True

    def _send(self, task: str, row_id: str | int, queue: str) -> bool:
        try:
            self._app.send_task(task, args=[row_id], queue=queue, retry=False, ignore_result=True)
        except Exception as error:  # noqa: BLE001 (each transport raises its own kinds; the keeper sends again)
            log.warning("the broker did not take the hint %s(%s): %s", task, row_id, type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()
