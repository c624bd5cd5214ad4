"""A real HTTP server of the API in a thread, and a client for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import httpx
import peers
import uvicorn

from service.api.app import create_app
from service.database import Database
from service.settings import Settings


@contextlib.contextmanager
def serving(settings: Settings, database: Database) -> Iterator[httpx.Client]:
    """Serve until the block ends; the client's addresses are relative to the server."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, database),
            host="127.0.0.1",
            port=0,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        peers.wait_for(lambda: server.started or not thread.is_alive(), what="the API")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
