"""`agatston scp`: receives series, and keeps disk, database and queue in agreement."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

from service import logs, metrics
from service.admission import Admission
from service.beats import Beat, process_name
from service.commitments import answer_due
from service.completeness import Completeness
from service.database import Database, require_current
from service.dispatch import Dispatcher
from service.inbox import Inbox
from service.keeper import Keeper
from service.loops import Loop
from service.scp import Scp
from service.settings import Settings
from service.store import Store
from service.sweeps import ROUND_SECONDS, Sweeper

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

log = logging.getLogger(__name__)

PEER_SECONDS = 2.0  # between two rounds of questions and answers to peers
STOP_SECONDS = 5.0  # a peer that does not answer holds up the stop no longer


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments: none, settings come from AGATSTON_*."""
    del parser


def run(args: Namespace) -> int:
    """Receive until SIGTERM; running associations then finish."""
    del args
    settings = Settings.load()
    logs.configure(settings, "scp")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    database = Database(settings.database)
    require_current(database)
    store = Store(settings.store_root)
    inbox = Inbox(settings, store, database)
    admission = Admission(settings, store, database)
    scp = Scp(settings, inbox, admission)
    completeness = Completeness(settings, database, inbox, admission)
    loops = [Loop("commitments", PEER_SECONDS, lambda: answer_due(database, store, settings))]
    if completeness.asks:
        loops.append(Loop("completeness", PEER_SECONDS, completeness.round))
    sweeper = Sweeper(settings, database, inbox, admission)
    if settings.sweeps:
        loops.append(Loop("sweeps", ROUND_SECONDS, sweeper.round))
    dispatcher = Dispatcher(settings)
    keeper = Keeper(settings, database, store, inbox, dispatcher, owner=process_name("scp"))
    beat = Beat(database, "scp", {"ae_title": settings.ae_title, "port": scp.port}, counters=metrics.snapshot)

    scp.start()
    keeper.start()
    for loop in loops:
        loop.start()
    beat.start()
    log.info("%s listens on %s:%d", settings.ae_title, settings.dicom_host, scp.port)
    stopping.wait()
    log.info("stopping: running associations may finish")
    sweeper.stop()
    scp.stop()
    for loop in loops:
        loop.stop(wait_seconds=STOP_SECONDS)
    keeper.stop()
    inbox.close()
    beat.stop()
    dispatcher.close()
    database.dispose()
    return 0
