"""A small HTTP server that answers DICOMweb as a test says, where no real archive can be made to misbehave."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator


@dataclass
class Request:
    """What came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What goes back; `body` pieces are sent one after another, and `cut` breaks the connection after them."""

    status: int = 200
    body: bytes | list[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: threading.Event | None = None  # nothing is sent before it is set


@dataclass
class WebArchive:
    """A running server and what it was asked."""

    url: str
    requests: list[Request]


def stow_answer(*, stored: dict[str, int] | None = None, failed: dict[str, int | None] | None = None) -> bytes:
    """Return a Store Instances Response (PS3.18 Annex I) in JSON; values are Warning and Failure Reasons."""

    def item(uid: str, keyword: str, reason: int | None) -> dict[str, object]:
        said: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason:
            said[keyword] = {"vr": "US", "Value": [reason]}
        return said

    answer: dict[str, object] = {}
    if failed:
        items = [item(uid, "00081197", reason) for uid, reason in failed.items()]
        answer["00081198"] = {"vr": "SQ", "Value": items}
    if stored:
        items = [item(uid, "00081196", reason) for uid, reason in stored.items()]
        answer["00081199"] = {"vr": "SQ", "Value": items}
    return json.dumps(answer).encode()


@contextlib.contextmanager
def answering(answer: Callable[[Request], Reply], *, tls: ssl.SSLContext | None = None) -> Iterator[WebArchive]:
    """Run a server whose answers `answer` decides."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def log_message(self, *_):
            pass

        def _serve(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers), body)
            requests.append(request)
            reply = answer(request)
            if reply.hang is not None:
                reply.hang.wait(60)
            pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
            self.send_response(reply.status)
            headers = {"Content-Type": "application/dicom+json", **reply.headers}
            if not reply.cut:
                headers.setdefault("Content-Length", str(sum(map(len, pieces))))
            else:
                headers["Content-Length"] = str(sum(map(len, pieces)) + 1000)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)

        do_GET = do_POST = _serve  # noqa: N815 (as BaseHTTPRequestHandler calls them)

        def handle(self):
            with contextlib.suppress(OSError):  # the client may go at any time
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):  # a failed handshake
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    scheme = "http" if tls is None else "https"
    try:
        yield WebArchive(f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
