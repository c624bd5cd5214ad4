"""QIDO-RS: what a server holds (PS3.18 section 10.6)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

import httpx

from service.dicomweb.attributes import text_of
from service.dicomweb.server import (
    ANSWER_SECONDS,
    DICOM_JSON,
    UID_FORM,
    Server,
    calling,
    path_of,
    read_json,
    refuse,
)
from service.dimse.association import PeerRefusedError

log = logging.getLogger(__name__)

PAGE = 200  # matches that are asked for at once; a server may give fewer (PS3.18 section 8.3.4.4)
MAX_MATCHES = 100_000  # of one query
LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
MATCHED = frozenset({*LEVELS.values(), "StudyDate", "ModalitiesInStudy", "Modality"})
"""Attributes whose values may stand in a URL, which servers and proxies log: none tells who a patient is."""

Query = Callable[[str, Mapping[str, str]], list[dict[str, str]]]


@contextlib.contextmanager
def querying(server: Server, *, timeout: float = ANSWER_SECONDS) -> Iterator[Query]:
    """Open a connection for many queries, one after another.

    The function that it gives takes what that of service.scu.querying takes: a level and keys, of which those
    in MATCHED may have a value. It returns for each match the text of each key.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        See service.dicomweb.server.
    SettingsError
        A UID to match has not the form of a UID.
    """
    with calling(server, timeout=timeout) as client:

        def query(level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
            return list(_matches(client, server, level, keys))

        yield query


def check(server: Server, *, timeout: float = ANSWER_SECONDS) -> None:
    """Ask for one study: the server is there, speaks QIDO-RS, and lets us in.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        It is not, does not, or refuses.
    """
    with calling(server, timeout=timeout) as client:
        _page(client, server, "/studies", [("limit", "1")])


def _matches(
    client: httpx.Client, server: Server, level: str, keys: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    own = LEVELS[level]
    path_of(matched=keys.get(own, ""))  # checks its form
    path, above = _resource(level, keys)
    asked = [_asked(keyword, value) for keyword, value in keys.items() if keyword not in above]
    seen: set[str] = set()
    offset = 0
    while offset < MAX_MATCHES:
        page = _page(client, server, path, [*asked, ("limit", str(PAGE)), ("offset", str(offset))])
        offset += len(page)
        before = len(seen)
        for item in page:
            uid = text_of(item, own)
            if not UID_FORM.fullmatch(uid):
                log.warning("%s gives a match without a UID; it is left out", server)
            elif uid not in seen:
                seen.add(uid)
                yield {keyword: text_of(item, keyword) for keyword in keys}
        if len(seen) == before:  # the end, or a server that knows no offset and gives the same again
            return
    log.warning("%s gives more than %d matches; the rest is left out", server, MAX_MATCHES)


def _resource(level: str, keys: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the path of the level's resource, and the keys that stand in it (PS3.18 Table 10.6.1-2)."""
    if level == "STUDY":
        return path_of(studies=""), ()
    study = keys["StudyInstanceUID"]
    if level == "SERIES":
        return path_of(studies=study, series=""), ("StudyInstanceUID",)
    path = path_of(studies=study, series=keys["SeriesInstanceUID"], instances="")
    return path, ("StudyInstanceUID", "SeriesInstanceUID")


def _asked(keyword: str, value: str) -> tuple[str, str]:
    if not value:
        return "includefield", keyword
    if keyword not in MATCHED:
        raise ValueError(f"{keyword} is not to be matched in a URL")
    return keyword, value


def _page(client: httpx.Client, server: Server, path: str, asked: list[tuple[str, str]]) -> list[object]:
    params = httpx.QueryParams(tuple(asked))
    with client.stream("GET", server.url + path, params=params, headers={"Accept": DICOM_JSON}) as answer:
        # No match (PS3.18 Table 10.6.3-1), or the study went since it was found.
        if answer.status_code == 204 or (answer.status_code == 404 and path != "/studies"):
            return []
        if answer.status_code != 200:
            refuse(server, "QIDO-RS", answer.status_code)
        page = read_json(server, answer)
    if page is None:
        return []
    if not isinstance(page, list):
        raise PeerRefusedError(f"{server} answers QIDO-RS with something else than a list")
    return page
