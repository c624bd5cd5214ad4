"""``agatston job``: list jobs, show one, run it again, cancel it, force it, deliver its objects again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from uuid import UUID

from calcium.job import JobState
from service import actions, moments
from service.api import drawing, queries
from service.api.schemas import JobDetailOut, JobOut
from service.beats import process_name
from service.database import Database, require_current
from service.dispatch import Dispatcher
from service.jobs import NoSuchJobError
from service.settings import Settings

ACTIONS: dict[str, tuple[str, Callable[[Database, Dispatcher, str, str], object]]] = {
    "rerun": ("run a job again that ended without a score", actions.rerun),
    "cancel": ("end a job that waits or runs", lambda data, _, job, who: actions.cancel(data, job, who)),
    "force": ("run a job now, in the urgent lane", actions.force),
    "deliver-again": ("send a job's objects again", actions.deliver_again),
}


def _job_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no job id; `agatston job list` shows them") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list jobs, newest first")
    listing.add_argument(
        "--state", action="append", choices=list(JobState), help="only these states (repeatable)"
    )
    listing.add_argument(
        "--since", type=moments.since, help="only jobs created since then: yesterday, 2h, 2026-11-25"
    )
    listing.add_argument("--series", metavar="UID", help="only jobs of this series")
    listing.add_argument("--limit", type=int, default=50, help="at most so many (50)")
    listing.add_argument("--json", action="store_true", help="print one JSON object a line")
    show = verbs.add_parser("show", help="show one job with its result, objects and history")
    show.add_argument("job", type=_job_id)
    show.add_argument("--json", action="store_true", help="print one JSON object")
    for verb, (text, _) in ACTIONS.items():
        verbs.add_parser(verb, help=text).add_argument("job", type=_job_id)


def run(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    settings = Settings.load()
    database = Database(settings.database)
    try:
        require_current(database)
        if args.verb == "list":
            return _list(database, args)
        if args.verb == "show":
            return _show(database, args)
        dispatcher = Dispatcher(settings)
        try:
            done = ACTIONS[args.verb][1](database, dispatcher, args.job, process_name("cli"))
        finally:
            dispatcher.close()
        print(f"{args.job}: {f'{len(done)} deliveries' if isinstance(done, list) else done}")
        return 0
    finally:
        database.dispose()


def _list(database: Database, args: argparse.Namespace) -> int:
    wanted = queries.JobFilter(
        states=tuple(args.state or ()), since=args.since, series_instance_uid=args.series
    )
    cursor, left = None, max(1, args.limit)
    while left > 0:
        with database.reading() as session:
            page = queries.page(session, wanted, after=cursor, limit=min(left, queries.MAX_PAGE))
            rows = [JobOut.of(one) for one in page.jobs]
        for row in rows:
            print(row.model_dump_json() if args.json else _line(row))
        cursor, left = page.next, left - len(rows)
        if cursor is None:
            break
    if cursor is not None and not args.json:
        print("there are more: --limit", file=sys.stderr)
    return 0


def _line(job: JobOut) -> str:
    outcome = (
        f"{drawing.score(job.agatston)} {job.risk_group}" if job.agatston is not None else job.reason or ""
    )
    delivered = drawing.delivery_summary(job.deliveries)[1]
    parts = (job.id, f"{job.created_at:%Y-%m-%d %H:%M:%SZ}", f"{job.state:12}", job.series_instance_uid)
    return "  ".join(part for part in (*parts, outcome, delivered) if part)


def _show(database: Database, args: argparse.Namespace) -> int:
    with database.reading() as session:
        found = queries.job(session, args.job)
        if found is None:
            raise NoSuchJobError(f"there is no job {args.job}")
        job = JobDetailOut.whole(
            found,
            queries.instances_of_series(session, found.series_id),
            list(queries.events(session, args.job)),
            list(queries.revisions(session, found.series_id)),
        )
    if args.json:
        print(json.dumps(job.model_dump(mode="json"), indent=2))
        return 0
    print(f"job        {job.id} (revision {job.revision}, {job.lane})")
    print(f"series     {job.series_instance_uid}, {job.instances} instances from {job.calling_ae}")
    print(f"state      {job.state}{f' ({job.reason_code})' if job.reason_code else ''}")
    if job.reason:
        print(f"reason     {job.reason}")
    if job.result is not None and job.result.agatston is not None:
        print(f"score      {drawing.score(job.result.agatston)}, {job.result.risk_group}")
        for warning in job.result.warnings:
            print(f"warning    {warning['code']}: {warning['text']}")
    for written in job.objects:
        for one in written.deliveries:
            print(f"delivery   {written.kind} to {one.destination}: {one.state}, {one.attempts} tries"
                  f"{f', {one.last_error}' if one.last_error else ''}")  # fmt: skip
    for event in job.events:
        print(f"{event.at:%Y-%m-%d %H:%M:%SZ}  {drawing.event_words(event.event)} ({event.actor})"
              f"{f': {event.detail}' if event.detail else ''}")  # fmt: skip
    return 0
