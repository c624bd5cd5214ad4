"""`agatston migrate`: brings the database to the version that this program needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.database import Database, current, upgrade
from service.settings import Settings

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments: none, settings come from AGATSTON_*."""
    del parser


def run(args: Namespace) -> int:
    """Migrate; a second caller at the same time waits."""
    del args
    database = Database(Settings.load().database)
    upgrade(database)
    print(f"the database is at version {current(database)}")
    return 0
