"""STOW-RS: a file into a server (PS3.18 section 10.5)."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from service.dicomweb.attributes import number_of, text_of, values_of
from service.dicomweb.multipart import OneFile
from service.dicomweb.server import ANSWER_SECONDS, DICOM_JSON, Server, calling, read_json
from service.dimse.association import SUCCESS, PeerRefusedError

PROCESSING_FAILURE = 0x0110  # PS3.7 Annex C.5.12; PS3.18 Table I.2-2
MAX_WAIT_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class StowOutcome:
    """What a server said about one file.

    Parameters
    ----------
    http
        HTTP status of the answer.
    status
        What the answer says about the instance (PS3.18 Table I.2-1), as a C-STORE status: 0000 or the Warning
        Reason where it stands in the Referenced SOP Sequence, the Failure Reason where it stands in the Failed
        SOP Sequence; None where it stands in neither.
    retry_after
        Seconds after which the server wants to be asked again; 0 where it does not say.
    """

    http: int
    status: int | None
    retry_after: float = 0.0


def store(server: Server, path: Path, sop_instance_uid: str, *, timeout: float = ANSWER_SECONDS) -> StowOutcome:
    """Send a DICOM file, as it lies on disk.

    Raises
    ------
    ArchiveUnavailableError
        The server cannot be reached or breaks off.
    FileNotFoundError
        The file does not exist.
    """
    message = OneFile(path)
    headers = {
        "Content-Type": message.content_type,
        "Content-Length": str(message.length),
        "Accept": DICOM_JSON,
    }
    with (
        calling(server, timeout=timeout) as client,
        client.stream("POST", f"{server.url}/studies", content=iter(message), headers=headers) as answer,
    ):
        wait = retry_after(answer.headers.get("Retry-After", ""))
        return StowOutcome(answer.status_code, _said(server, answer, sop_instance_uid), wait)


def _said(server: Server, answer: httpx.Response, uid: str) -> int | None:
    if not 200 <= answer.status_code < 500:
        return None
    try:
        said = read_json(server, answer)
    except PeerRefusedError:  # no JSON: a page of some proxy
        return None
    for item in values_of(said, "FailedSOPSequence"):
        if text_of(item, "ReferencedSOPInstanceUID") == uid:
            reason = number_of(item, "FailureReason")
            return reason or PROCESSING_FAILURE  # 0000 would be none
    for item in values_of(said, "ReferencedSOPSequence"):
        if text_of(item, "ReferencedSOPInstanceUID") == uid:
            return number_of(item, "WarningReason") or SUCCESS
    return None


def retry_after(text: str) -> float:
    """Return the seconds that a Retry-After header says (RFC 9110 section 10.2.3); 0 where it says nothing."""
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_WAIT_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    if moment.tzinfo is None:  # "-0000"
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), MAX_WAIT_SECONDS)
