"""The Celery application of a worker process, and its orderly end.

Scoring and delivery run in two processes (docs/decisions/0041): an archive that is slow does not hold up
scores, a score that takes long does not hold up reports, and what kills the one leaves the other alone.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import worker_shutting_down

from service.dispatch import DELIVERY, NORMAL, URGENT, celery_config
from worker import tasks
from worker.node import WorkerNode

if TYPE_CHECKING:
    from service.settings import Settings
    from worker.scorers import Scorers

log = logging.getLogger(__name__)

SCORE, DELIVER = "worker", "sender"  # kinds of processes
QUEUES_OF_ROLE = {SCORE: (URGENT, NORMAL), DELIVER: (DELIVERY,)}
# Work that was handed back may go on so long in a library before the process ends without it.
STOP_SECONDS = 8.0


def create_app(settings: Settings, node: WorkerNode, scorers: Scorers | None = None) -> Celery:
    """Return the Celery application of one role: with `scorers` it scores, without it delivers."""
    app = Celery("agatston-worker", set_as_current=False)
    app.conf.update(celery_config(settings))
    if scorers is None:
        tasks.register_delivery(app, node)
    else:
        tasks.register_scoring(app, node, scorers)
    return app


def work(settings: Settings, role: str, concurrency: int) -> int:
    """Work until SIGTERM or SIGINT, and return the exit code.

    Raises
    ------
    AgatstonError
        Database, migrations or weights are not as they should be; said before anything is claimed.
    """
    scorers = None
    if role == SCORE:
        from worker.scorers import Scorers  # noqa: PLC0415 (draws torch in)

        scorers = Scorers.load()
    node = WorkerNode(settings, role, scorers.details if scorers else None)
    app = create_app(settings, node, scorers)

    def stop(**_: Any) -> None:  # runs inside a signal handler: only starts a thread
        if not node.stopping.is_set():
            node.stopping.set()
            threading.Thread(target=_give_up_work, args=(node,), name="stop", daemon=True).start()

    worker_shutting_down.connect(stop, weak=False)
    node.start_beats()
    log.info("%s works on %s", node.owner, ", ".join(QUEUES_OF_ROLE[role]))
    try:
        # Threads: torch forked after its first use hangs (prefork), and the main thread stays free to hear
        # signals and the broker (solo does not).
        app.Worker(
            pool="threads",
            concurrency=concurrency,
            queues=list(QUEUES_OF_ROLE[role]),
            hostname=node.owner,
            loglevel=settings.log_level,
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        ).start()
    finally:
        node.close()
    return 0


def _give_up_work(node: WorkerNode) -> None:
    """Hand back what is claimed, and end the process should a computation not end soon."""
    node.hand_back_all()
    threading.Event().wait(STOP_SECONDS)
    log.info("%s ends in the middle of what it handed back", node.owner)
    os._exit(0)
