"""`agatston worker`: score jobs and deliver reports."""

from __future__ import annotations

import contextlib
import os
import subprocess  # nosec B404 (our own interpreter and module)
import sys
import threading
import warnings
from typing import TYPE_CHECKING

from celery.platforms import SecurityWarning
from celery.signals import setup_logging

from calcium.errors import SettingsError
from service import logs
from service.dispatch import DELIVERY, QUEUES
from service.settings import Settings
from service.supervisor import PARENT_FD
from worker import app

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

DELIVERIES_AT_ONCE = 4  # they wait for archives, not for the processor
RESTART_SECONDS = 2.0  # a sender that ends by itself starts again after so long
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


def run(args: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT."""
    queues = {name.strip() for name in args.queues.split(",") if name.strip()}
    if not queues or not queues <= set(QUEUES):
        raise SettingsError(f"--queues takes names out of {', '.join(QUEUES)}")
    if args.concurrency < 1:
        raise SettingsError("--concurrency takes a number of at least 1")
    settings = Settings.load()
    configure_logs(settings)
    delivers = set(app.QUEUES_OF_ROLE[app.DELIVER]) & queues
    scores = set(app.QUEUES_OF_ROLE[app.SCORE]) & queues
    if not scores:
        return app.work(settings, app.DELIVER, DELIVERIES_AT_ONCE)
    with _sender() if delivers else contextlib.nullcontext():
        return app.work(settings, app.SCORE, args.concurrency)


def configure_logs(settings: Settings) -> None:
    """Write logs as the node's other processes do, and keep Celery from changing that."""
    logs.configure(settings, "worker")
    setup_logging.connect(lambda **_: None, weak=False)
    # Celery warns a worker that runs as root of pickled messages; ours are JSON and nothing else is accepted.
    warnings.simplefilter("ignore", SecurityWarning)


@contextlib.contextmanager
def _sender() -> Iterator[None]:
    """Run a process that delivers, as long as the block lasts; should it end by itself, start another.

    It holds the read end of a pipe whose write end only we have, and so ends with us however we end
    (service.supervised).
    """
    read_end, write_end = os.pipe()
    ending = threading.Event()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  # nosec B603 (our own interpreter)
            [sys.executable, "-m", "service.supervised", "worker", "--queues", DELIVERY],
            env={**os.environ, PARENT_FD: str(read_end)},
            pass_fds=(read_end,),
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
        )

    def watch() -> None:
        while not ending.is_set():
            process[0].wait()
            if not ending.wait(RESTART_SECONDS):
                process[0] = start()

    process = [start()]
    threading.Thread(target=watch, name="sender", daemon=True).start()
    try:
        yield
    finally:
        ending.set()
        process[0].terminate()
        try:
            process[0].wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process[0].kill()
            process[0].wait()
        os.close(write_end)
        os.close(read_end)
