"""`agatston migrate`: bring the database to the version that this program needs, and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service import database
from service.settings import Settings

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no arguments: the settings name the database."""
    parser.epilog = "The database is AGATSTON_DATABASE_URL; a second call at the same time waits for the first."


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 (every command has it)
    """Run the migrations; 3 where the database does not answer."""
    store = database.Database(Settings.load().database)
    database.upgrade(store)
    print(f"the database is at version {database.head()}")
    store.dispose()
    return 0
