"""DICOMweb servers, and requests to them: sent, answered, and every way that fails told apart.

As with DIMSE, a server that does not answer, is slow or has a fault of its own raises ArchiveUnavailableError
(worth another try), and one that refuses raises PeerRefusedError. Messages carry the server's address, but no
patient data, no token and no text of the server's.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx

from calcium.errors import ArchiveUnavailableError, SettingsError
from service.dimse.association import PeerRefusedError

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""Between two packets; archives that index on the store answer within some seconds."""
PACE_SECONDS = 60.0
PACE_BYTES = 64 * 1024
"""What must come in each PACE_SECONDS of waiting: below 1 kB/s a server only holds our thread."""
CHUNK_BYTES = 64 * 1024
MAX_JSON_BYTES = 32 << 20
"""Of one answer; a page of 200 studies with all their attributes is about 1 MB."""

DEFAULT_AET = "DICOMWEB"
DICOM_JSON = "application/dicom+json"
# PS3.18 section 8.5 and RFC 9110: not our fault, or not for long.
TRANSIENT_STATUSES = frozenset({408, 421, 423, 425, 429})
UID_FORM = re.compile(r"[0-9.]{1,64}")  # as calcium.errors: nothing else gets into a URL or a message


@dataclass(frozen=True, slots=True)
class Server:
    """Where a DICOMweb server answers and who we are there.

    Parameters
    ----------
    url
        Base of its services, without a slash at the end (service.settings.web_url checks it).
    aet
        What rows call it where DIMSE has a calling AE title.
    authorization
        Value of the header Authorization (RFC 9110 section 11.6.2); empty: none.
    tls
        How to encrypt and whom to trust; None: TLS 1.2 or later and the system's authorities.
    """

    url: str
    aet: str = DEFAULT_AET
    authorization: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url


@contextlib.contextmanager
def calling(server: Server, *, timeout: float = ANSWER_SECONDS) -> Iterator[httpx.Client]:
    """Open a client for some requests, whose failures become ours.

    It follows no redirect, which could take our token and a patient's report to another host, and reads no
    proxy and no password from the environment.

    Raises
    ------
    ArchiveUnavailableError
        The server cannot be reached, breaks off, or answers something else than HTTP.
    """
    # No compression: a small answer cannot become a large one.
    headers = {"Accept-Encoding": "identity", "User-Agent": "agatston"}
    if server.authorization:
        headers["Authorization"] = server.authorization
    try:
        with httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            verify=server.tls or ssl.create_default_context(),
            trust_env=False,
        ) as client:
            yield client
    except httpx.TimeoutException as error:
        raise ArchiveUnavailableError(f"{server} does not answer in time ({type(error).__name__})") from error
    except httpx.ConnectError as error:
        raise ArchiveUnavailableError(f"{server} cannot be reached: {error}") from error
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise ArchiveUnavailableError(f"{server} broke the connection ({type(error).__name__})") from error


def path_of(**uids: str) -> str:
    """Return the path of a resource (PS3.18 section 10.1.1): ``/studies/1.2/series/1.3``.

    Parameters
    ----------
    uids
        Names of the levels, and their UIDs in order; an empty one names the whole level.

    Raises
    ------
    SettingsError
        One has not the form of a UID.
    """
    path = ""
    for level, uid in uids.items():
        if uid and not UID_FORM.fullmatch(uid):
            raise SettingsError(f"the UID of the {level} has not the form of a UID (PS3.5 section 9.1)")
        path += f"/{level}/{uid}" if uid else f"/{level}"
    return path


def refuse(server: Server, service: str, status: int) -> NoReturn:
    """Raise what an HTTP status of 300 or more means (RFC 9110 section 15)."""
    said = f"{server} answers {service} with {status}"
    if status >= 500 or status in TRANSIENT_STATUSES:
        raise ArchiveUnavailableError(said)
    if status in {401, 403, 407}:
        raise PeerRefusedError(f"{said}: it wants another token or user")
    if 300 <= status < 400:
        raise PeerRefusedError(f"{said}: it redirects; write the final address in the settings")
    raise PeerRefusedError(said)


def chunks_of(server: Server, response: httpx.Response) -> Iterator[bytes]:
    """Yield the body of an answer as it comes, in pieces of some 64 kB at most.

    Raises
    ------
    ArchiveUnavailableError
        It comes more slowly than PACE_BYTES in PACE_SECONDS.
    PeerRefusedError
        It is compressed although we asked for none.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise PeerRefusedError(f"{server} compresses its answer, which nobody asked for")
    pieces = response.iter_raw()
    waited, came = 0.0, 0
    while True:
        start = time.monotonic()
        piece = next(pieces, None)
        waited += time.monotonic() - start  # not the time that the caller needs
        if piece is None:
            return
        came += len(piece)
        if waited > PACE_SECONDS:
            if came < PACE_BYTES:
                raise ArchiveUnavailableError(f"{server} sends less than {PACE_BYTES} bytes a minute")
            waited, came = 0.0, 0
        yield piece


def read_json(server: Server, response: httpx.Response) -> Any:
    """Read an answer in JSON; None where it is empty, and what it is then is for the caller to check.

    Raises
    ------
    ArchiveUnavailableError
        Too slow, as `chunks_of`.
    PeerRefusedError
        Larger than MAX_JSON_BYTES, or no JSON.
    """
    content = bytearray()
    for piece in chunks_of(server, response):
        content += piece
        if len(content) > MAX_JSON_BYTES:
            raise PeerRefusedError(f"{server} answers with more than {MAX_JSON_BYTES} bytes of JSON")
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # its text may be a page that names a patient: not repeated
        raise PeerRefusedError(f"{server} answers something else than JSON") from None
