"""``agatston find``: ask an archive which series it holds."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging

from service import moments, pulling
from service.database import Database, require_current
from service.settings import Settings


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `find` and `pull` share."""
    text = "AET@host:port, https://host/dicom-web, or the name of a peer or destination; default: AGATSTON_PACS"
    parser.add_argument("--from", dest="source", metavar="PEER", help=text)
    text = "study dates: yesterday, 2026-11-25, 2026-11-01-2026-11-25, 2026-11-01-"
    parser.add_argument("--date", type=moments.dates, metavar="DAYS", help=text)
    parser.add_argument("--since", type=_since, metavar="DAY", help="studies of this day and later")
    parser.add_argument("--modality", default="CT", help="CT; empty: any")
    parser.add_argument(
        "--description", default="*", metavar="PATTERN", help="of the series, e.g. '*lung*1.0*'"
    )
    parser.add_argument("--protocol", default="*", metavar="PATTERN", help="name of the scan's protocol")
    parser.add_argument("--study-description", default="*", metavar="PATTERN", help="of the study")
    parser.add_argument("--study", default="", metavar="UID", help="only this study")
    parser.add_argument("--series", default="", metavar="UID", help="only this series")
    parser.add_argument("--min-instances", type=int, default=1, metavar="N", help="leave smaller series out")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many series")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _since(text: str) -> str:
    return moments.dates(text) + "-"


def wanted_of(args: argparse.Namespace) -> pulling.Wanted:
    """Return the filter that the arguments say."""
    return pulling.Wanted(
        modality=args.modality,
        dates=args.date or args.since or "",
        description=args.description,
        study_description=args.study_description,
        protocol=args.protocol,
        study_instance_uid=args.study,
        series_instance_uid=args.series,
        min_instances=args.min_instances,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_filters(parser)
    parser.add_argument("--new", action="store_true", help="only series that this node does not know yet")


def run(args: argparse.Namespace) -> int:
    """Print the series found."""
    for name in ("pynetdicom", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = Settings.load()
    peer = pulling.peer_of(settings, args.source)
    database = None
    if args.new:
        database = Database(settings.database)
        require_current(database)
    count = 0
    for one in pulling.find(peer, wanted_of(args), calling_ae=settings.ae_title):
        if database is not None and pulling.is_known(database, one):
            continue
        size = "?" if one.instances is None else one.instances
        line = f"{one.series_instance_uid}  {one.study_date:8}  {one.modality:4}  {size:>5}  {one.description}"
        print(json.dumps(dataclasses.asdict(one)) if args.json else line, flush=True)
        count += 1
        if count == args.limit:
            break
    if database is not None:
        database.dispose()
    if not args.json:
        print(f"{count} series at {peer}")
    return 0
