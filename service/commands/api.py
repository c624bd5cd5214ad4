"""``agatston api``: serve the status page and the API."""

from __future__ import annotations

import argparse
import logging

from service import logs
from service.beats import Beat
from service.database import Database
from service.settings import Settings

GRACE_SECONDS = 10  # running requests may end so long after SIGTERM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--host", help="interface to listen on, instead of AGATSTON_HTTP_HOST")
    parser.add_argument("--port", type=int, help="port to listen on, instead of AGATSTON_HTTP_PORT")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn  # noqa: PLC0415 (keeps --help fast)

    from service.api.app import create_app  # noqa: PLC0415

    settings = Settings.load()
    changed = {"http_host": args.host, "http_port": args.port}
    settings = settings.model_copy(update={name: value for name, value in changed.items() if value is not None})
    logs.configure(settings, "api")
    database = Database(settings.database)
    beat = Beat(database, "api", {"port": settings.http_port})
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, database),
            host=settings.http_host,
            port=settings.http_port,
            log_config=None,
            access_log=False,  # ours has no query string: service.api.security.AccessLog
            server_header=False,
            proxy_headers=False,  # a forwarded address is evidence against loopback, never for it
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=16384,
            limit_concurrency=200,
        )
    )
    logging.getLogger(__name__).info("HTTP on http://%s:%d", settings.http_host, settings.http_port)
    beat.start()
    try:
        server.run()
    finally:
        beat.stop()
        database.dispose()
    return 0 if server.started else 1
