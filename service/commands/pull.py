"""``agatston pull``: fetch series from an archive into the inbox, once or in sweeps, and let them be scored."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import threading
from itertools import islice

from calcium.errors import TransientError
from service import logs, pulling, retrievals
from service.admission import Admission
from service.beats import process_name
from service.commands.find import add_filters, wanted_of
from service.database import Database, require_current
from service.inbox import Inbox
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_filters(parser)
    text = "C-GET, or C-MOVE to our SCP; auto: C-GET where the archive offers it; DICOMweb knows one way only"
    parser.add_argument("--method", choices=("auto", "get", "move"), default="auto", help=text)
    parser.add_argument("--again", action="store_true", help="fetch series that this node knows already, too")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="rest after each series")
    text = "begin no series while more jobs wait (20)"
    parser.add_argument("--max-waiting", type=int, default=20, metavar="N", help=text)
    parser.add_argument("--every", type=float, metavar="MINUTES", help="sweep again and again, until SIGTERM")


def run(args: argparse.Namespace) -> int:
    """Fetch; exit code 1 where a series could not be fetched."""
    settings = Settings.load()
    logs.configure(settings, "pull")
    peer = pulling.peer_of(settings, args.source)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    database, store = Database(settings.database), Store(settings.store_root)
    require_current(database)
    inbox = Inbox(settings, store, database)
    puller = pulling.Puller(
        settings, database, inbox, Admission(settings, store, database), peer, method=args.method
    )
    code = 0
    try:
        while True:
            try:
                code = _pull(args, settings, database, puller, stopping)
            except TransientError as error:
                if args.every is None:
                    raise
                log.warning("%s; the next sweep tries again", error)
            if args.every is None or stopping.wait(60 * args.every):
                return code
    finally:
        inbox.close()
        database.dispose()


def _pull(
    args: argparse.Namespace,
    settings: Settings,
    database: Database,
    puller: pulling.Puller,
    stopping: threading.Event,
) -> int:
    counts: dict[str, int] = {}
    # Remembered like those of the API: this command, too, writes the node's own rows (docs/decisions/0034).
    number = retrievals.begin(
        database, kind="pull", archive=args.source or "", actor="agatston pull", owner=process_name("pull")
    )
    with retrievals.ending(database, number, stopped=stopping.is_set):
        # All is asked before the first is fetched: no association idles while a series comes.
        answers = pulling.find(puller.peer, wanted_of(args), calling_ae=settings.ae_title)
        found = list(islice(answers, args.limit))
        retrievals.found(database, number, len(found))
        pulled = puller.pull_all(
            found,
            again=args.again,
            pause_seconds=args.pause,
            max_waiting=args.max_waiting,
            stopping=stopping.is_set,
            waits=lambda: retrievals.touch(database, number),
        )
        for one in pulled:
            retrievals.note(database, number, one)
            counts[one.outcome] = counts.get(one.outcome, 0) + 1
            line = f"{one.outcome:10}  {one.series.series_instance_uid}  {one.instances:5}  {one.text}".rstrip()
            print(json.dumps(dataclasses.asdict(one)) if args.json else line, flush=True)
    if not args.json:
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(f"{len(found)} series found at {puller.peer}: {said or 'nothing to do'}", flush=True)
    return 1 if counts.get("failed") or counts.get("incomplete") else 0
