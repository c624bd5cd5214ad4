"""``agatston sweep``: list the sweeps of the settings and their latest runs, or run one now."""

from __future__ import annotations

import argparse
import json
import signal

from service import logs, retrievals, sweeps
from service.admission import Admission
from service.database import Database, require_current
from service.inbox import Inbox
from service.retrievals import State
from service.settings import Settings, Sweep
from service.store import Store
from service.tables import Retrieval


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", nargs="?", help="run this one now, throttled as ever; without it: list all")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each sweep")


def run(args: argparse.Namespace) -> int:
    """List, or run one; exit code 1 where it failed or a series could not be fetched."""
    settings = Settings.load()
    logs.configure(settings, "sweep")
    database = Database(settings.database)
    try:
        require_current(database)
        if args.name is None:
            for sweep in settings.sweeps:
                _print(sweep, retrievals.last(database, sweep.name), as_json=args.json)
            return 0
        sweep = sweeps.named(settings, args.name)
        _sweep(settings, database, sweep)
        last = retrievals.last(database, sweep.name)
        _print(sweep, last, as_json=args.json)
        return 0 if last is not None and last.state == State.DONE and not last.failed else 1
    finally:
        database.dispose()


def _sweep(settings: Settings, database: Database, sweep: Sweep) -> None:
    store = Store(settings.store_root)
    inbox = Inbox(settings, store, database)
    try:
        sweeper = sweeps.Sweeper(settings, database, inbox, Admission(settings, store, database), kind="sweep")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sweeper.stop())
        sweeper.run(sweep, actor="agatston sweep")
    finally:
        inbox.close()


def _print(sweep: Sweep, last: Retrieval | None, *, as_json: bool) -> None:
    counts = ("found", "known", "passed_over", "fetched", "failed")
    figures = {name: getattr(last, name) for name in counts} if last is not None else {}
    state = last.state if last is not None else "has not run yet"
    if as_json:
        at = last.started_at.isoformat() if last is not None else None
        error = last.error if last is not None else None
        said = {"name": sweep.name, "state": state, "started_at": at, "error": error, **figures}
        print(json.dumps(said), flush=True)
        return
    words = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in figures.items())
    at = f" {last.started_at.astimezone():%Y-%m-%d %H:%M}" if last is not None else ""
    error = f"; {last.error}" if last is not None and last.error else ""
    print(f"{sweep.name} ({sweeps.schedule(sweep)}): {state}{at}{': ' if words else ''}{words}{error}")
