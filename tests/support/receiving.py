"""A receiving node inside the test's process, and small CT instances to send to it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from service.admission import Admission
from service.database import Database, upgrade
from service.dimse import association as _  # noqa: F401 (closes its sockets, as our processes do)
from service.inbox import Inbox
from service.keeper import Keeper
from service.scp import Scp
from service.settings import Settings
from service.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def ct_instance(
    *,
    series: str | None = None,
    study: str | None = None,
    sop: str | None = None,
    number: int = 1,
    size: int = 16,
    syntax: str = ExplicitVRLittleEndian,
    **elements: Any,
) -> Dataset:
    """Return a small CT image with random pixels; `elements` are set last."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = sop or generate_uid()
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID = series or generate_uid()
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = "Doe^Jane", "SECRET-ID"
    ds.InstanceNumber = number
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.add_new(
        0x7FE00010, "OW", np.random.default_rng(number).integers(0, 4095, (size, size), np.uint16).tobytes()
    )
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def ct_series(count: int, *, size: int = 16, **elements: Any) -> list[Dataset]:
    """Return instances of one series."""
    study, series = generate_uid(), generate_uid()
    return [
        ct_instance(study=study, series=series, number=number + 1, size=size, **elements)
        for number in range(count)
    ]


def encoded(ds: Dataset) -> bytes:
    """Return a data set as a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_all(folder: Path, instances: Sequence[Dataset]) -> Path:
    """Write instances as files, for senders that read files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, ds in enumerate(instances):
        (folder / f"{number:04d}.dcm").write_bytes(encoded(ds))
    return folder


@dataclass
class Hints:
    """Stands for the broker: remembers the hints."""

    jobs: list[str] = field(default_factory=list)
    deliveries: list[int] = field(default_factory=list)

    def score(self, job_id: str, lane: str) -> bool:
        self.jobs.append(job_id)
        return True

    def deliver(self, delivery_id: int) -> bool:
        self.deliveries.append(delivery_id)
        return True


@dataclass
class Receiver:
    """A running SCP and what it works on."""

    settings: Settings
    database: Database
    store: Store
    inbox: Inbox
    scp: Scp
    keeper: Keeper
    hints: Hints

    @property
    def port(self) -> int:
        return self.scp.port

    @contextlib.contextmanager
    def association(
        self, *, ae_title: str = "SCANNER", syntax: str = ExplicitVRLittleEndian, **kwargs: Any
    ) -> Iterator[Any]:
        """Give an established association with a CT context."""
        entity = AE(ae_title=ae_title)
        entity.add_requested_context(CTImageStorage, syntax)
        association = entity.associate("127.0.0.1", self.port, ae_title=self.settings.ae_title, **kwargs)
        try:
            assert association.is_established, "no association"
            yield association
        finally:
            if association.is_established:
                association.release()

    def send(self, instances: Sequence[Dataset], **kwargs: Any) -> list[int]:
        """Send instances over one association and return the statuses."""
        with self.association(**kwargs) as association:
            return [int(association.send_c_store(ds).Status) for ds in instances]


def settings(home: Path, **values: Any) -> Settings:
    """Return settings for a home folder; values as in the environment, by lower-case names."""
    environment = {"AGATSTON_HOME": str(home), "AGATSTON_DICOM_PORT": "0", "AGATSTON_DISK_MIN_FREE_MB": "1"}
    environment |= {f"AGATSTON_{name.upper()}": str(value) for name, value in values.items()}
    return Settings.load(environment)


@contextlib.contextmanager
def receiver(home: Path, **values: Any) -> Iterator[Receiver]:
    """Run an SCP with its inbox; the keeper's rounds are for the test to call."""
    chosen = settings(home, **values)
    database = Database(chosen.database)
    upgrade(database)
    store = Store(chosen.store_root)
    inbox = Inbox(chosen, store, database)
    scp = Scp(chosen, inbox, Admission(chosen, store, database))
    hints = Hints()
    keeper = Keeper(chosen, database, store, inbox, hints, owner="test")  # type: ignore[arg-type]
    scp.start()
    try:
        yield Receiver(chosen, database, store, inbox, scp, keeper, hints)
    finally:
        scp.stop(grace_seconds=2)
        inbox.close()
        database.dispose()
