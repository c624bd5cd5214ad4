"""What a report without a score needs of its source: a series that is refused never becomes a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from calcium.dicom_files import read_header, settle
from calcium.frames import text
from calcium.series import InstanceReference

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydicom.dataset import Dataset


class Source(Protocol):
    """A source series: ``calcium.series.CTSeries``, or `Headers` where nothing but headers was read."""

    @property
    def header(self) -> Dataset:
        """One instance of the series, without its pixels."""

    @property
    def instances(self) -> tuple[InstanceReference, ...]:
        """All its instances."""


@dataclass(frozen=True, slots=True)
class Headers:
    """A source series of which only the headers were read."""

    header: Dataset
    instances: tuple[InstanceReference, ...]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Headers:
        """Read the headers of a series' files, whatever their order.

        Raises
        ------
        SeriesError
            A file is not readable.
        ValueError
            No files.
        """
        known = {}
        for path in paths:
            identifiers = read_header(path, ("SOPClassUID", "SOPInstanceUID")).dataset
            known[text(identifiers, "SOPInstanceUID")] = (text(identifiers, "SOPClassUID"), path)
        if not known:
            raise ValueError("a series without files is no source")
        _, first = known[min(known)]
        header = read_header(first).dataset
        settle(header)
        # Where they lie is of no matter: a report without a score has no slices.
        instances = tuple(InstanceReference(known[uid][0], uid, 0.0) for uid in sorted(known))
        return cls(header, instances)
