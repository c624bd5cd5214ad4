"""C-ECHO and C-STORE towards a peer (PS3.4 Annexes A and B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from calcium.errors import ArchiveUnavailableError
from service.dimse.association import (
    ANSWER_SECONDS,
    SUCCESS,
    UNCOMPRESSED,
    NoContextError,
    Peer,
    open_association,
    status_of,
    text_of,
)

MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd identifiers up to 255 (PS3.8 section 9.3.2.2)."""
CANNOT_UNDERSTAND = 0xC000  # PS3.4 Table B.2-1
NOT_NEGOTIATED = 0x0122
"""Our status for a file whose SOP class or syntax the peer accepts in no form (PS3.7 Annex C.5.6)."""
STORED = frozenset({SUCCESS, 0xB000, 0xB006, 0xB007})
"""Success and the warnings with which the instance is nevertheless stored (PS3.4 Table B.2-1)."""
RE_ENCODABLE = frozenset({*UNCOMPRESSED, DeflatedExplicitVRLittleEndian})
"""Syntaxes whose data sets can be written in the others without touching a pixel."""


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What the peer said about one file.

    Parameters
    ----------
    sop_instance_uid
        Of the file.
    status
        Status of the C-STORE answer (PS3.4 Table B.2-1); None where none came.
    comment
        Error Comment (0000,0902) of the answer or our own words.
    """

    sop_instance_uid: str
    status: int | None
    comment: str = ""

    @property
    def stored(self) -> bool:
        """Whether the peer has the instance now."""
        return self.status in STORED

    @property
    def transient(self) -> bool:
        """Whether another try may help: no answer, out of resources (A7xx), or a processing failure (0110)."""
        return self.status is None or self.status & 0xFF00 == 0xA700 or self.status == 0x0110


def echo(peer: Peer, *, calling_ae: str = "AGATSTON", timeout: float = ANSWER_SECONDS) -> None:
    """Ask the peer whether it is there (C-ECHO, PS3.4 Annex A).

    Raises
    ------
    ArchiveUnavailableError
        It does not answer, rejects the association, or answers with another status than 0000.
    """
    with open_association(peer, [build_context(Verification)], calling_ae, timeout) as association:
        status = status_of(association.send_c_echo())
        if status != SUCCESS:
            raise ArchiveUnavailableError(f"{peer} answers C-ECHO with {text_of(status)}")


def store(
    peer: Peer, files: Sequence[Path], *, calling_ae: str = "AGATSTON", timeout: float = ANSWER_SECONDS
) -> list[StoreOutcome]:
    """Send DICOM files, each in its own transfer syntax; one outcome for each, in the order of `files`.

    A syntax that the peer refuses is replaced by explicit, else implicit VR little endian where the file's
    pixel data are not compressed (a data set re-encoded so has the same values).

    Parameters
    ----------
    peer, files
        Who gets them, and PS3.10 files.
    calling_ae, timeout
        Our AE title, and seconds for each answer.

    Raises
    ------
    ArchiveUnavailableError
        No association could be opened. Once one is open, a lost answer is an outcome without status.
    FileNotFoundError
        A file does not exist. (One that is not DICOM is an outcome with status C000.)
    """
    outcomes: dict[Path, StoreOutcome] = {}
    kinds: dict[Path, tuple[str, str, str]] = {}
    for path in files:
        try:
            meta = read_file_meta_info(path)
            kinds[path] = (
                str(meta.MediaStorageSOPInstanceUID),
                str(meta.MediaStorageSOPClassUID),
                str(meta.TransferSyntaxUID),
            )
        except (InvalidDicomError, AttributeError, EOFError, KeyError, ValueError):
            outcomes[path] = StoreOutcome("", CANNOT_UNDERSTAND, "not a DICOM file")
    for batch, contexts in _batches(kinds):
        try:
            opened = open_association(peer, [build_context(*pair) for pair in contexts], calling_ae, timeout)
            with opened as association:
                accepted = {
                    (str(one.abstract_syntax), str(one.transfer_syntax[0]))
                    for one in association.accepted_contexts
                }
                for number, path in enumerate(batch):
                    outcomes[path] = _store_one(association, path, kinds[path], accepted, number)
        except NoContextError:
            outcomes |= {path: _not_negotiated(kinds[path]) for path in batch}
    return [outcomes[path] for path in files]


def _proposals(sop_class_uid: str, syntax: str) -> list[tuple[str, str]]:
    """Return the contexts that carry a file: its own syntax first, then those it can be re-encoded in."""
    syntaxes = [syntax]
    if syntax in RE_ENCODABLE:
        syntaxes += [str(one) for one in UNCOMPRESSED if one != syntax]
    return [(sop_class_uid, one) for one in syntaxes]


def _batches(
    kinds: Mapping[Path, tuple[str, str, str]],
) -> Iterator[tuple[list[Path], list[tuple[str, str]]]]:
    """Group files so that the contexts of each group fit one association."""
    batch: list[Path] = []
    contexts: dict[tuple[str, str], None] = {}  # a set in the order of first use
    for path, (_, sop_class_uid, syntax) in kinds.items():
        more = dict.fromkeys(_proposals(sop_class_uid, syntax))
        if batch and len(contexts | more) > MAX_CONTEXTS:
            yield batch, list(contexts)
            batch, contexts = [], {}
        batch.append(path)
        contexts |= more
    if batch:
        yield batch, list(contexts)


def _store_one(
    association: Any, path: Path, kind: tuple[str, str, str], accepted: set[tuple[str, str]], number: int
) -> StoreOutcome:
    sop_instance_uid, sop_class_uid, syntax = kind
    chosen = next((one for one in _proposals(sop_class_uid, syntax) if one in accepted), None)
    if chosen is None:
        return _not_negotiated(kind)
    try:
        answer = _send(association, path, kind, chosen[1], number % 65535 + 1)
    except RuntimeError:  # pynetdicom: the association is no longer established
        return StoreOutcome(sop_instance_uid, None, "the association ended before the file was sent")
    except OSError as error:  # half a message may be on the wire
        association.abort()
        return StoreOutcome(sop_instance_uid, None, f"the file cannot be read: {error.strerror}")
    except (ValueError, AttributeError, KeyError, InvalidDicomError):
        return StoreOutcome(sop_instance_uid, CANNOT_UNDERSTAND, "the file cannot be encoded for sending")
    status = status_of(answer)
    comment = "no answer" if status is None else str(answer.get("ErrorComment", "") or "")
    return StoreOutcome(sop_instance_uid, status, comment)


def _not_negotiated(kind: tuple[str, str, str]) -> StoreOutcome:
    names = f"{UID(kind[1]).name} in {UID(kind[2]).name}"
    return StoreOutcome(kind[0], NOT_NEGOTIATED, f"the peer accepts neither {names} nor a fall-back")


def _send(association: Any, path: Path, kind: tuple[str, str, str], syntax: str, message_id: int) -> Dataset:
    """C-STORE a file: its bytes as they lie on disk, or re-encoded where `syntax` is not its own."""
    source = path if syntax == kind[2] else dcmread(path)  # pynetdicom re-encodes a Dataset, a path it streams
    return association.send_c_store(source, msg_id=message_id)  # type: ignore[no-any-return]
