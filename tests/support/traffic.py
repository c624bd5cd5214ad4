"""Traffic as scanners make it: small series that can be scored, sent until every slice is acknowledged."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import build_context
from pynetdicom.dsutils import encode

from calcium.errors import AgatstonError
from service.dimse.association import Peer, open_association

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

IN_PLANE = 96  # rows and columns: 20 kB a slice
SEED = 7  # of the simulated scan: a heart in 47 slices
ANSWER_SECONDS = 30.0  # a scanner waits so long for an answer
PREAMBLE = 144  # bytes before the file meta's elements: preamble, DICM and (0002,0000)


class Kind(StrEnum):
    """What a series is, for the node."""

    ELIGIBLE = "eligible"
    CONTRAST = "contrast"
    THICK = "thick"


# What makes a series not eligible (calcium.eligibility).
CHANGES: dict[Kind, dict[str, tuple[str, str]]] = {
    Kind.ELIGIBLE: {},
    Kind.CONTRAST: {"ContrastBolusAgent": ("LO", "IOPROMIDE")},
    Kind.THICK: {"SliceThickness": ("DS", "5.0")},
}


@cache
def template(folder: Path) -> tuple[Dataset, ...]:
    """Return the slices of a small simulated scan, without file meta."""
    from models.training.phantom import PhantomConfig, make_scan, write_dicom  # noqa: PLC0415 (slow to import)

    config = PhantomConfig(calcium=300.0, thickness_mm=3.0, in_plane=IN_PLANE, z_coverage="heart")
    return tuple(pydicom.dcmread(path) for path in write_dicom(make_scan(SEED, config=config), folder))


@dataclass(eq=False)
class SentSeries:
    """One series and what became of its slices.

    Parameters
    ----------
    late
        Slices that are held back until the others were scored.
    """

    uid: str
    study: str
    kind: Kind
    slices: list[Dataset]
    late: int = 0
    acknowledged: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As they go over the wire in Explicit VR Little Endian, PS3.5 annex A.2.
        for ds in self.slices:
            content = encode(ds, False, True)
            assert content is not None
            self.digests[ds.SOPInstanceUID] = hashlib.sha256(content).hexdigest()

    @property
    def complete(self) -> bool:
        """Whether every slice was acknowledged."""
        return len(self.acknowledged) == len(self.slices)


def copy_of(slices: Sequence[Dataset], number: int, kind: Kind, *, run: str, late: int = 0) -> SentSeries:
    """Return the series under new UIDs, which follow from `run` and `number`.

    Parameters
    ----------
    slices
        Of `template`; their pixels are shared.
    """

    def uid(*what: object) -> str:
        return generate_uid(entropy_srcs=[run, str(number), *map(str, what)])

    study, series, frame = uid("study"), uid("series"), uid("frame of reference")
    copies = []
    for index, one in enumerate(slices):
        ds = Dataset(dict(one.items()))  # shares the elements, some of which are then replaced
        changes = {
            "StudyInstanceUID": ("UI", study),
            "SeriesInstanceUID": ("UI", series),
            "FrameOfReferenceUID": ("UI", frame),
            "SOPInstanceUID": ("UI", uid(index)),
        }
        for keyword, (vr, value) in {**changes, **CHANGES[kind]}.items():
            ds[Tag(keyword)] = DataElement(Tag(keyword), vr, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        copies.append(ds)
    return SentSeries(series, study, kind, copies, late)


def stored_digest(path: Path) -> str:
    """Return the SHA-256 of a file's data set, without its file meta (PS3.10 section 7.1)."""
    content = path.read_bytes()
    length = int.from_bytes(content[PREAMBLE - 4 : PREAMBLE], "little")
    return hashlib.sha256(content[PREAMBLE + length :]).hexdigest()


@dataclass(eq=False)
class Scanner:
    """Sends slices over one association at a time, and counts what it is answered.

    Parameters
    ----------
    pause
        Called before each slice; returns seconds to wait.
    """

    port: int
    title: str
    ending: threading.Event
    pause: Callable[[], float] = lambda: 0.0
    seconds: list[tuple[float, float]] = field(default_factory=list)  # (when, answered after)
    refused: dict[int, int] = field(default_factory=dict)
    cut: int = 0  # slices that were on the way when the association broke
    duplicates: int = 0
    away: int = 0  # associations that were not accepted
    broken: dict[str, int] = field(default_factory=dict)  # associations that ended while we sent
    sending: bool = False  # a C-STORE is on its way

    def send(self, batch: Sequence[tuple[SentSeries, Dataset]]) -> bool:
        """Send slices, in their order, over one association; False where one was not acknowledged."""
        whole = True
        peer = Peer("AGATSTON", "127.0.0.1", self.port)
        context = build_context(CTImageStorage, ExplicitVRLittleEndian)
        with open_association(peer, [context], self.title, ANSWER_SECONDS) as association:
            for series, ds in batch:
                if self.ending.wait(self.pause()) or not association.is_established:
                    return False
                whole = self._store(association, series, ds) and whole
        return whole

    def _store(self, association: object, series: SentSeries, ds: Dataset) -> bool:
        started = time.perf_counter()
        self.sending = True
        try:
            answer = association.send_c_store(ds)  # type: ignore[attr-defined]
        finally:
            self.sending = False
        status = answer.get("Status")
        if status is None:
            self.cut += 1
        elif status == 0x0000:
            self.seconds.append((time.time(), time.perf_counter() - started))
            self.duplicates += ds.SOPInstanceUID in series.acknowledged
            series.acknowledged.add(ds.SOPInstanceUID)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
        return status == 0x0000

    def until_acknowledged(self, batch: Sequence[tuple[SentSeries, Dataset]], chance: random.Random) -> None:
        """Send slices again and again, now and then all of them, until each was acknowledged."""
        left = list(batch)
        while left and not self.ending.is_set():
            try:
                self.send(left)
            except AgatstonError:  # nobody listens
                self.away += 1
            except Exception as error:  # noqa: BLE001 (pynetdicom raises many kinds when an association ends)
                name = type(error).__name__
                self.broken[name] = self.broken.get(name, 0) + 1
            left = [(series, ds) for series, ds in batch if ds.SOPInstanceUID not in series.acknowledged]
            if left:
                if chance.random() < 0.3:  # a scanner that starts anew
                    left = list(batch)
                self.ending.wait(chance.uniform(0.2, 1.0))
