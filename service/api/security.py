"""Who may ask the API what: bearer tokens with roles, an open loopback, and the headers of every answer.

Without tokens the API is open only where it listens on loopback, and there only to requests that were made for
loopback: a foreign Host header (DNS rebinding), a forwarding proxy, or a form of another site is refused. With
tokens, everything but the health checks needs one: as ``Authorization: Bearer``, or from the sign-in page as a
cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.settings import Settings

log = logging.getLogger(__name__)

Role = Literal["read", "operate"]

COOKIE = "agatston_token"
MAX_TOKEN = 512  # characters; longer ones are not hashed
MAX_BODY = 65_536  # bytes of a request; the largest honest one is a search with one UID
FREQUENT = ("/fragments/", "/health/", "/metrics", "/static/")  # asked every few seconds
CSRF_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

# One policy for all answers: nothing but our own files, no inline script or style, no frames (W3C CSP level 3).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the actor's name in job events, and what it may do."""

    name: str
    role: Role

    @property
    def operates(self) -> bool:
        """Whether it may change something."""
        return self.role == "operate"


class Guard:
    """Decides who a request comes from.

    Parameters
    ----------
    settings
        Tokens, and the interface that HTTP listens on.
    """

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.tokens
        self.open = not settings.tokens and settings.is_loopback(settings.http_host)
        self.signs_in = bool(settings.tokens)

    def of_token(self, token: str) -> Caller | None:
        """Return the caller of a token; every configured digest is compared, in constant time."""
        if not token or len(token) > MAX_TOKEN:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for known in self._tokens:
            if hmac.compare_digest(digest, known.sha256):
                found = Caller(known.name, known.role)
        return found

    def of_request(self, request: HTTPConnection) -> Caller | None:
        """Return who a request comes from, or None for an anonymous one."""
        if self.open:
            return Caller("loopback", "operate") if _made_for_loopback(request.headers) else None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.of_token(token.strip())
        return self.of_token(request.cookies.get(COOKIE, ""))


def _made_for_loopback(headers: Headers) -> bool:
    if any(name in headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")):
        return False
    try:
        host = urlsplit("//" + headers.get("host", "")).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # not an address, or brackets that do not match
        return False


def from_own_page(method: str, headers: Headers) -> bool:
    """Tell whether a changing request comes from our own page or from a program, not from another site.

    Browsers send Sec-Fetch-Site, or at least Origin, with every POST; programs send neither.
    """
    if method in CSRF_SAFE:
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


class SecurityHeaders:
    """ASGI middleware: adds `HEADERS` to every answer, bounds bodies, and refuses other sites' forms.

    Parameters
    ----------
    app
        The application below.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = False

        async def secured(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        headers = Headers(scope=scope)
        if not from_own_page(scope["method"], headers):
            await _plain(secured, 403, "this request comes from another site")
            return
        body = await _bounded_body(receive) if scope["method"] not in CSRF_SAFE else None
        if isinstance(body, int):
            await _plain(secured, body, "the body is too large" if body == 413 else "the client left")
            return
        try:
            await self.app(scope, receive if body is None else _replay(body, receive), secured)
        except Exception as error:
            # Caught here, below Starlette's own handler, so that the answer bears the headers too.
            log.exception("unexpected %s at %s %s", type(error).__name__, scope["method"], scope["path"])
            if started:
                raise
            await _plain(secured, 500, "the request failed; the log says why")


class AccessLog:
    """ASGI middleware: one line a request, with neither query string nor body; refreshes only at DEBUG.

    Parameters
    ----------
    app
        The application below.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope["path"].encode("ascii", "backslashreplace").decode()[:200]
            level = logging.DEBUG if path.startswith(FREQUENT) and status < 500 else logging.INFO
            milliseconds = 1000 * (time.perf_counter() - started)
            log.log(level, "%s %r %d in %.0f ms", scope["method"], path, status, milliseconds)


async def _bounded_body(receive: Receive) -> bytes | int:
    """Read a body of at most MAX_BODY bytes; the status of a refusal otherwise."""
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return 400
        parts += message.get("body", b"")
        if len(parts) > MAX_BODY:
            return 413
        if not message.get("more_body", False):
            return bytes(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _plain(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
