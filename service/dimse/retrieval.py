"""C-FIND, C-MOVE and C-GET towards an archive, Study Root (PS3.4 Annex C)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import build_context, build_role, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import (
    LegacyConvertedEnhancedCTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from calcium.errors import ArchiveUnavailableError
from service.dimse.association import (
    ANSWER_SECONDS,
    CANCELLED,
    PENDING,
    PENDING_WITH_WARNING,
    SUCCESS,
    UNCOMPRESSED,
    Peer,
    open_association,
    refuse,
    require_context,
    status_of,
)

PREAMBLE = bytes(128) + b"DICM"  # PS3.10 section 7.1
WANTED_SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless,
    JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless, JPEGLSNearLossless, JPEG2000,
)  # fmt: skip
"""What a C-GET takes, most wanted first."""
WANTED_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)


@dataclass(frozen=True, slots=True)
class RetrieveOutcome:
    """Sub-operations of a C-MOVE or C-GET (PS3.4 sections C.4.2.1.6 to C.4.2.1.9)."""

    status: int
    completed: int
    failed: int
    warned: int
    failed_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """An instance that a C-GET brought, encoded as it came.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        Of the C-STORE sub-operation.
    meta
        Preamble, prefix and file meta information (PS3.10 section 7.1): with `data_set`, a DICOM file.
    data_set
        Encoded data set.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    meta: bytes
    data_set: memoryview


def find(
    peer: Peer,
    level: str,
    keys: Mapping[str, str],
    *,
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
    limit: int | None = None,
) -> list[Dataset]:
    """Ask what the peer holds (C-FIND, Study Root, PS3.4 section C.4.1).

    Parameters
    ----------
    level
        ``STUDY``, ``SERIES`` or ``IMAGE``; the unique keys of the levels above must stand in `keys`
        (hierarchical search, PS3.4 section C.4.1.3.1).
    keys
        Keyword: value to match; an empty value asks for the attribute.
    limit
        Matches after which the query is cancelled; None for all.

    Raises
    ------
    ArchiveUnavailableError
        No answer, no association, or A700 (out of resources).
    PeerRefusedError
        Any other failure status.
    """
    with querying(peer, calling_ae=calling_ae, timeout=timeout) as query:
        return query(level, keys, limit=limit)


class Query(Protocol):
    """One C-FIND on an open association; see `find`."""

    def __call__(self, level: str, keys: Mapping[str, str], *, limit: int | None = None) -> list[Dataset]:
        """Return the matches."""
        ...


@contextlib.contextmanager
def querying(peer: Peer, *, calling_ae: str = "AGATSTON", timeout: float = ANSWER_SECONDS) -> Iterator[Query]:
    """Open an association for many queries, one after another.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        As `find`.
    """
    model = StudyRootQueryRetrieveInformationModelFind
    with open_association(peer, [build_context(model, list(UNCOMPRESSED))], calling_ae, timeout) as association:

        def query(level: str, keys: Mapping[str, str], *, limit: int | None = None) -> list[Dataset]:
            matches: list[Dataset] = []
            try:
                answers = association.send_c_find(_identifier(level, keys), model)
            except RuntimeError as error:  # pynetdicom: the association is no longer established
                raise ArchiveUnavailableError(f"{peer} ended the association") from error
            for answer, identifier in answers:
                status = status_of(answer)
                if status in (PENDING, PENDING_WITH_WARNING):
                    if identifier is not None and (limit is None or len(matches) < limit):
                        matches.append(identifier)
                        if len(matches) == limit:
                            association.send_c_cancel(1, query_model=model)
                elif status not in (SUCCESS, CANCELLED):
                    refuse(peer, "C-FIND", status, answer)
            return matches

        yield query


def move(
    peer: Peer,
    *,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uids: Sequence[str] = (),
    destination_ae: str,
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
) -> RetrieveOutcome:
    """Let the peer send a study, series or some instances to `destination_ae` (C-MOVE, PS3.4 section C.4.2).

    Raises
    ------
    ArchiveUnavailableError
        No answer, no association, or out of resources (A701, A702).
    PeerRefusedError
        Any other failure, e.g. A801: the peer does not know `destination_ae`.
    """
    model = StudyRootQueryRetrieveInformationModelMove
    query = _retrieve_identifier(study_instance_uid, series_instance_uid, sop_instance_uids)
    with open_association(peer, [build_context(model, list(UNCOMPRESSED))], calling_ae, timeout) as association:
        require_context(peer, association, model)
        return _retrieved(peer, "C-MOVE", association.send_c_move(query, destination_ae, model))


def get(
    peer: Peer,
    receive: Callable[[Received], int],
    *,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uids: Sequence[str] = (),
    calling_ae: str = "AGATSTON",
    timeout: float = ANSWER_SECONDS,
) -> RetrieveOutcome:
    """Fetch CT instances on our own association (C-GET, PS3.4 section C.4.3).

    Parameters
    ----------
    receive
        Called for each instance; returns the status of its C-STORE answer: 0000 only when it is durable.
    study_instance_uid, series_instance_uid, sop_instance_uids
        What to fetch; a series of None is the whole study, no instances are the whole series.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        As `move`.
    """
    model = StudyRootQueryRetrieveInformationModelGet
    query = _retrieve_identifier(study_instance_uid, series_instance_uid, sop_instance_uids)
    contexts = [build_context(model, list(UNCOMPRESSED))]
    # One context for each syntax, so that the peer sends each instance as it is stored.
    contexts += [build_context(one, syntax) for one in WANTED_CLASSES for syntax in WANTED_SYNTAXES]
    # PS3.7 section D.3.3.4: the requestor of the association acts as SCP of the storage classes.
    roles = [build_role(one, scp_role=True) for one in WANTED_CLASSES]

    def handle(event: Any) -> int:
        request = event.request
        return receive(
            Received(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                PREAMBLE + encode_file_meta(event.file_meta),
                request.DataSet.getbuffer(),
            )
        )

    with open_association(
        peer, contexts, calling_ae, timeout, roles=roles, handlers=[(evt.EVT_C_STORE, handle)]
    ) as association:
        require_context(peer, association, model)
        return _retrieved(peer, "C-GET", association.send_c_get(query, model))


def _identifier(level: str, keys: Mapping[str, Any]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _retrieve_identifier(study: str, series: str | None, instances: Sequence[str]) -> Dataset:
    if series is None:
        return _identifier("STUDY", {"StudyInstanceUID": study})
    keys: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    if not instances:
        return _identifier("SERIES", keys)
    return _identifier("IMAGE", {**keys, "SOPInstanceUID": list(instances)})


def _retrieved(peer: Peer, service: str, answers: Iterator[tuple[Dataset, Dataset | None]]) -> RetrieveOutcome:
    for answer, identifier in answers:
        status = status_of(answer)
        if status == PENDING:
            continue
        # B000: complete, one or more failures (PS3.4 Table C.4-2): an outcome, not a refusal.
        if status not in (SUCCESS, 0xB000, CANCELLED) and not answer.get("NumberOfCompletedSuboperations"):
            refuse(peer, service, status, answer)
        failed = identifier.get("FailedSOPInstanceUIDList") if identifier is not None else None
        return RetrieveOutcome(
            status if status is not None else 0,
            int(answer.get("NumberOfCompletedSuboperations") or 0),
            int(answer.get("NumberOfFailedSuboperations") or 0),
            int(answer.get("NumberOfWarningSuboperations") or 0),
            tuple(str(one) for one in ([failed] if isinstance(failed, str) else failed or [])),
        )
    raise ArchiveUnavailableError(f"{peer} ends {service} without a final answer")
