"""`agatston worker`: score jobs and deliver reports."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess  # nosec B404
import sys
import threading
from typing import TYPE_CHECKING

from calcium.errors import SettingsError
from service.dispatch import QUEUES
from service.settings import Settings
from worker import app

if TYPE_CHECKING:
    from collections.abc import Iterator

DELIVERIES_AT_ONCE = 4  # they wait for archives, not for the processor
RESTART_SECONDS = 2.0  # a sender that ends by itself starts again after so long
ORPHAN_SECONDS = 0.5  # between two looks whether the parent is still there
END_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--concurrency", type=int, default=1, metavar="N",
        help="jobs scored at once; they share the weights (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--queues", default=",".join(QUEUES), metavar="NAMES",
        help=f"which of {', '.join(QUEUES)} to serve (default: all; delivery in its own process)",
    )  # fmt: skip
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT."""
    queues = {name.strip() for name in args.queues.split(",") if name.strip()}
    if not queues or not queues <= set(QUEUES):
        raise SettingsError(f"--queues takes names out of {', '.join(QUEUES)}")
    if args.concurrency < 1:
        raise SettingsError("--concurrency takes a number of at least 1")
    settings = Settings.load()
    configure_logs(settings)
    if args.parent is not None:
        _follow(args.parent)
    delivers = set(app.QUEUES_OF_ROLE[app.DELIVER]) & queues
    scores = set(app.QUEUES_OF_ROLE[app.SCORE]) & queues
    if not scores:
        return app.work(settings, app.DELIVER, DELIVERIES_AT_ONCE)
    with _sender() if delivers else contextlib.nullcontext():
        return app.work(settings, app.SCORE, args.concurrency)


def configure_logs(settings: Settings) -> None:
    """Write logs as the node's other processes do, and keep Celery from changing that."""
    from celery.signals import setup_logging  # noqa: PLC0415

    from service import logs  # noqa: PLC0415

    logs.configure(settings, "worker")
    setup_logging.connect(lambda **_: None, weak=False)


@contextlib.contextmanager
def _sender() -> Iterator[None]:
    """Run a process that delivers, as long as the block lasts; should it end by itself, start another."""
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "worker",
        "--queues",
        "delivery",
        "--parent",
        str(os.getpid()),
    ]
    ending = threading.Event()
    current = [subprocess.Popen(command)]  # noqa: S603 (our own program)

    def watch() -> None:
        while True:
            current[0].wait()
            if ending.wait(RESTART_SECONDS):
                return
            current[0] = subprocess.Popen(command)  # noqa: S603 (our own program)

    watcher = threading.Thread(target=watch, name="sender", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ending.set()
        current[0].terminate()
        try:
            current[0].wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            current[0].kill()
            current[0].wait()


def _follow(parent: int) -> None:
    """End in order when the parent is gone: kill -9 of it must not leave us behind."""

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
