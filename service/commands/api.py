"""`agatston api`: serves the status page and the API."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from typing import TYPE_CHECKING

from calcium.errors import SettingsError
from service import logs
from service.beats import Beat
from service.database import Database
from service.settings import Settings

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

log = logging.getLogger(__name__)

GRACE_SECONDS = 10  # running requests may end so long after SIGTERM
BIND_SECONDS = 5.0  # so long a port may still be taken, by the process that we replace
BACKLOG = 128


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments; other settings come from AGATSTON_*."""
    parser.add_argument("--host", help="interface to listen on, instead of AGATSTON_HTTP_HOST")
    parser.add_argument("--port", type=int, help="port to listen on, instead of AGATSTON_HTTP_PORT")


def run(args: Namespace) -> int:
    """Serve until SIGTERM; running requests then finish."""
    import uvicorn  # noqa: PLC0415 (keeps --help fast)

    from service.api.app import create_app  # noqa: PLC0415

    settings = Settings.load()
    changed = {"http_host": args.host, "http_port": args.port}
    settings = settings.model_copy(update={name: value for name, value in changed.items() if value is not None})
    logs.configure(settings, "api")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listening = _listen(settings.http_host, settings.http_port)
    port = int(listening.getsockname()[1])
    database = Database(settings.database)
    beat = Beat(database, "api", {"port": port})
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, database),
            log_config=None,
            access_log=False,  # ours has no query string: service.api.security.AccessLog
            server_header=False,
            proxy_headers=False,  # a forwarded address is evidence against loopback, never for it
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=16384,
            limit_concurrency=200,
        )
    )
    # uvicorn would raise the signal again when it has stopped, and end us before the beat is taken back.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]

    def stop(*_: object) -> None:
        server.force_exit = server.should_exit  # asked twice: at once
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    beat.start()
    log.info("http://%s:%d answers", settings.http_host, port)
    try:
        server.run(sockets=[listening])
    finally:
        beat.stop()
        database.dispose()
    return 0 if server.started else 1


def _listen(host: str, port: int) -> socket.socket:
    """Listen on a port.

    Raises
    ------
    SettingsError
        It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = time.monotonic() + BIND_SECONDS
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            if time.monotonic() > end or isinstance(error, PermissionError):
                raise SettingsError(
                    f"AGATSTON_HTTP_PORT: {host}:{port} cannot be had: {error.strerror}"
                ) from error
            time.sleep(0.2)
