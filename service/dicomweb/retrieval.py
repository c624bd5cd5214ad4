"""WADO-RS: the instances of a series, one part after another (PS3.18 section 10.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import httpx

from calcium.errors import ArchiveUnavailableError, UnreadableInstanceError
from service.dicomweb.multipart import DICOM, MalformedError, boundary_of, parts
from service.dicomweb.part10 import read_meta
from service.dicomweb.server import ANSWER_SECONDS, Server, calling, chunks_of, path_of, refuse
from service.dimse.association import SUCCESS, PeerRefusedError
from service.dimse.retrieval import Received, RetrieveOutcome

# As the server holds them: without the star it would decompress all (PS3.18 section 8.7.3.5.2).
ACCEPT = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
CANNOT_UNDERSTAND = 0xC000  # PS3.4 Table B.2-1
INCOMPLETE = 0xB000  # PS3.4 Table C.4-3: complete, with failures
OUT_OF_RESOURCES = 0xA700
GONE = frozenset({404, 410})
PARTIAL_CONTENT = 206  # earlier editions: some instances cannot be given


def retrieve(
    server: Server,
    receive: Callable[[Received], int],
    *,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uids: Sequence[str] = (),
    max_instance_bytes: int,
    max_instances: int,
    timeout: float = ANSWER_SECONDS,
) -> RetrieveOutcome:
    """Fetch a series, or some instances of it; one instance at a time is in memory.

    Parameters
    ----------
    sop_instance_uids
        Which instances; none: the whole series. Each is asked for by itself, and one that the server does not
        have counts as failed.
    receive
        Called for each instance; returns a status as a C-STORE is answered: 0000 only when it is durable. A700
        to A7FF end the retrieve.
    max_instance_bytes, max_instances
        More of either end the retrieve.

    Returns
    -------
    RetrieveOutcome
        As of a C-GET; its status is the last failure's, or B000 where the server says that some are left out or
        not there.

    Raises
    ------
    ArchiveUnavailableError
        The server does not answer, or breaks off: what came is durable, and the series may be asked again.
    PeerRefusedError
        It refuses, or gives too many instances.
    """
    series = {"studies": study_instance_uid, "series": series_instance_uid}
    paths = [path_of(**series, instances=uid) for uid in sop_instance_uids] or [path_of(**series)]
    completed = failed = 0
    status = SUCCESS
    with calling(server, timeout=timeout) as client:
        for path in paths:
            with client.stream("GET", server.url + path, headers={"Accept": ACCEPT}) as answer:
                if sop_instance_uids and answer.status_code in GONE:
                    failed, status = failed + 1, INCOMPLETE
                    continue
                if answer.status_code not in {200, PARTIAL_CONTENT}:
                    refuse(server, "WADO-RS", answer.status_code)
                if answer.status_code == PARTIAL_CONTENT:
                    status = INCOMPLETE
                for part in _parts(server, answer, max_instance_bytes):
                    if completed + failed == max_instances:
                        text = f"{server} gives more than {max_instances} instances for one series"
                        raise PeerRefusedError(text)
                    said = _receive(receive, part)
                    if said == SUCCESS:
                        completed += 1
                        continue
                    failed, status = failed + 1, said
                    if said & 0xFF00 == OUT_OF_RESOURCES:
                        return RetrieveOutcome(status, completed, failed, 0)
    return RetrieveOutcome(status, completed, failed, 0)


def _parts(server: Server, answer: httpx.Response, limit: int) -> Iterator[bytearray]:
    try:
        boundary = boundary_of(answer.headers.get("Content-Type", ""))
        yield from parts(chunks_of(server, answer), boundary, limit=limit)
    except MalformedError as error:
        raise ArchiveUnavailableError(f"{server} breaks WADO-RS off: {error}") from error


def _receive(receive: Callable[[Received], int], part: bytearray) -> int:
    file = memoryview(part)
    try:
        meta = read_meta(file)
    except UnreadableInstanceError:
        return CANNOT_UNDERSTAND
    # The head of the file is written anew: a preamble may hold anything (PS3.10 section 7.1).
    return receive(
        Received(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, b"", file[meta.start :])
    )
