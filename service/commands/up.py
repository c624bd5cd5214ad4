"""`agatston up`: the whole node in one command, on embedded defaults."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from service import logs
from service.database import Database, upgrade
from service.settings import Settings
from service.supervisor import EXIT_USAGE, Supervisor, only_one

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

log = logging.getLogger(__name__)

CHILDREN = ("scp", "api", "worker")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments: none, settings come from AGATSTON_*."""
    del parser


def run(args: Namespace) -> int:
    """Migrate, then run SCP, API and worker until SIGTERM or Ctrl-C."""
    del args
    settings = Settings.load()
    settings.require_known_peers()
    logs.configure(settings, "up")
    with only_one(settings.home):
        database = Database(settings.database)
        upgrade(database)
        database.dispose()
        supervisor = Supervisor(CHILDREN, os.environ)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.stop)
        print("\n".join(_start_lines(settings)), flush=True)
        code = supervisor.run()
        if code == EXIT_USAGE:
            log.error("`agatston %s` cannot run with these settings; see its line above", supervisor.fault)
        print("Agatston has stopped", flush=True)
    return code


def _start_lines(settings: Settings) -> list[str]:
    callers = "any AE title" if settings.any_peer else ", ".join(peer.aet for peer in settings.peers)
    destinations = ", ".join(one.address for one in settings.all_destinations)
    return [
        "Agatston: predicted calcium scores of screening chest CT. Research use only.",
        f"  receives  {settings.ae_title} at {settings.dicom_host}:{settings.dicom_port}, from {callers}",
        f"  answers   {destinations or 'nowhere yet: set AGATSTON_PACS=AET@host:port'}",
        f"  shows     http://{settings.http_host}:{settings.http_port}/",
        f"  keeps     {settings.home}",
    ]
