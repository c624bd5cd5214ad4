"""Instances to one CT volume in canonical axes: complete and regular, or a typed error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from calcium.acquisition import Acquisition
from calcium.dicom_files import Header, group_by_series, guarded, read_header, read_headers, settle
from calcium.errors import (
    DuplicatePositionError,
    MissingSlicesError,
    MixedSeriesError,
    MultipleVolumesError,
    ResourcesError,
    TooLargeError,
)
from calcium.frames import MAX_FRAMES, Frame, frames_of, required_text, text
from calcium.geometry import Point
from calcium.grid import check_drift, check_same, geometry_of, group_positions, turn_of
from calcium.pixels import LOSSY, stored_frames, to_hu
from calcium.volume import CTVolume

__all__ = ["CTSeries", "InstanceReference", "group_by_series", "read_headers", "read_series"]

MAX_VOXELS = 1 << 29
"""Most voxels of a series: 1 GiB of HU."""
THREADS = min(4, os.cpu_count() or 1)
"""Threads that decode; most decoders hold the interpreter's lock, reading and copying do not."""


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """One source instance, as evidence for a report.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid
        As in the instance.
    z_mm
        Of its lowest frame, LPS mm.
    frames
        Number of frames.
    """

    sop_class_uid: str
    sop_instance_uid: str
    z_mm: float
    frames: int = 1


@dataclass(frozen=True, eq=False)
class CTSeries:
    """A series that became one volume.

    Parameters
    ----------
    volume
        HU in canonical axes: slice index rises with z, row index with y, column index with x.
    header
        All elements of the lowest slice's instance but the pixel data: patient, study and series for a report.
    instances
        All source instances by rising z, those without content of their own included.
    acquisition
        How the scan was made.
    notes
        What the reader passed over, in words.
    """

    volume: CTVolume
    header: FileDataset
    instances: tuple[InstanceReference, ...]
    acquisition: Acquisition
    notes: tuple[str, ...] = ()

    @property
    def lossy_encoded(self) -> bool:
        """Whether the instances arrived in a transfer syntax that loses detail."""
        return self.header.file_meta.TransferSyntaxUID in LOSSY

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.header.SeriesInstanceUID)


# Elements that must be the same in all instances of a series, and whether they must be there.
_COMMON = {
    "SeriesInstanceUID": True,
    "StudyInstanceUID": True,
    "FrameOfReferenceUID": False,
    "PatientID": False,
    "PatientName": False,
    "PatientBirthDate": False,
    "SOPClassUID": True,
    "Modality": False,
}


def _check_common(headers: Sequence[Header], uids: Sequence[str]) -> None:
    """Refuse instances of different patients, studies, series or frames of reference; values are not told."""
    first = {name: text(headers[0].dataset, name) for name in _COMMON}
    for name, required in _COMMON.items():
        if required:
            required_text(headers[0].dataset, name, uids[0])
    for header, uid in zip(headers, uids, strict=True):
        for name, value in first.items():
            if text(header.dataset, name) != value:
                raise MixedSeriesError(f"instances of one series differ in {name}", uid=uid)


def _check_uids(instances: Sequence[list[Frame]]) -> None:
    """Refuse one SOP Instance UID on two objects; the same file twice is passed over later."""
    known: dict[str, list[Point]] = {}
    for frames in instances:
        positions = [frame.position_mm for frame in frames]
        if known.setdefault(frames[0].uid, positions) != positions:
            raise MixedSeriesError("one SOP Instance UID stands on two different images", uid=frames[0].uid)


def _numbered(path: Path) -> tuple[Header, list[Frame]]:
    header = read_header(path)
    return header, list(frames_of(header))


class _Pixels:
    """The volume being filled, and what decides about slices at one position."""

    def __init__(self, groups: list[list[Frame]]) -> None:
        self.slices = [group[0] for group in groups]
        self.turn = turn_of(self.slices[0].layout, self.slices[0].uid)
        check_drift(self.slices)
        self.geometry = geometry_of(self.slices, self.turn)
        if np.prod(self.geometry.shape, dtype=np.int64) > MAX_VOXELS:
            raise TooLargeError(f"{self.geometry.shape} voxels exceed {MAX_VOXELS}", uid=self.slices[0].uid)
        self.hu = np.empty(self.geometry.shape, np.int16)

    def place(self, index: int, image: NDArray[np.int16]) -> None:
        """Write one slice, given in stored axes."""
        self.hu[index] = self.turn(image)

    def same(self, index: int, image: NDArray[np.int16]) -> bool:
        """Tell whether a frame in stored axes has the content of a slice."""
        return bool(np.array_equal(self.hu[index], self.turn(image)))


def _decode(frames: list[Frame]) -> Iterable[tuple[Frame, NDArray[np.int16]]]:
    """Yield frame and HU of all frames of one instance."""
    for frame, stored in stored_frames(frames[0].header, frames):
        yield frame, to_hu(stored, frame)


def _fill(pixels: _Pixels, groups: list[list[Frame]], instances: list[list[Frame]]) -> int:
    """Decode all instances into the volume; return how many frames repeated another one.

    Raises
    ------
    DuplicatePositionError
        Two frames at one position differ.
    """
    place = {id(frame): index for index, group in enumerate(groups) for frame in group}
    leaders = {id(group[0]) for group in groups}

    def run(frames: list[Frame]) -> None:
        for frame, hu in _decode(frames):
            if id(frame) in leaders:
                pixels.place(place[id(frame)], hu)

    def compare(frames: list[Frame]) -> int:
        repeated = 0
        for frame, hu in _decode(frames):
            if id(frame) in leaders:
                continue
            index = place[id(frame)]
            if not pixels.same(index, hu):
                raise _duplicate(groups, index, frame)
            repeated += 1
        return repeated

    with ThreadPoolExecutor(THREADS) as threads:
        tasks = [threads.submit(run, frames) for frames in instances if any(id(f) in leaders for f in frames)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            # One fault refuses the series: the rest is not decoded, which may be slow on purpose.
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return sum(compare(frames) for frames in instances if any(id(frame) not in leaders for frame in frames))


def _duplicate(groups: list[list[Frame]], index: int, frame: Frame) -> DuplicatePositionError:
    """Return the error for different slices at one position."""
    several = sum(len(group) > 1 for group in groups)
    z = groups[index][0].z_mm
    if several > len(groups) / 2:
        most = max(len(group) for group in groups)
        return MultipleVolumesError(
            f"several volumes in one series: up to {most} different slices at each of {several} positions, "
            f"the first at z {z:.2f} mm",
            uid=frame.uid,
        )
    return DuplicatePositionError(f"two different slices at z {z:.2f} mm", uid=frame.uid)


def read_series(sources: Iterable[Path]) -> CTSeries:
    """Read the files of one series into one volume.

    Parameters
    ----------
    sources
        All files of the series, in any order.

    Returns
    -------
    CTSeries
        Independent of the order of `sources`.

    Raises
    ------
    SeriesError
        A file that is not readable, is no CT image or does not belong to the others; a gap, irregular or
        absurd spacing, tilt, different slices at one position; pixels that are missing, truncated or not
        decodable; more voxels than `MAX_VOXELS`. Names the UID and the place in mm. Never a part of the volume.
    ResourcesError
        Out of memory.
    """
    with guarded("the series"):
        return _read(sorted(set(sources)))


def _read(paths: list[Path]) -> CTSeries:
    if not paths:
        raise MissingSlicesError("no files")
    if len(paths) > MAX_FRAMES:
        raise TooLargeError(f"{len(paths)} files exceed {MAX_FRAMES}")
    read = [_numbered(path) for path in paths]
    headers, instances = [header for header, _ in read], [frames for _, frames in read]
    _check_common(headers, [frames[0].uid for frames in instances])
    _check_uids(instances)
    frames = [frame for part in instances for frame in part]
    if len(frames) > MAX_FRAMES:
        raise TooLargeError(f"{len(frames)} frames exceed {MAX_FRAMES}", uid=frames[0].uid)
    check_same(frames)
    groups = group_positions(frames)
    try:
        pixels = _Pixels(groups)
        repeated = _fill(pixels, groups, instances)
    except MemoryError as error:
        raise ResourcesError("out of memory while reading a series", uid=frames[0].uid) from error
    references = {
        part[0].uid: InstanceReference(
            str(part[0].header.dataset.SOPClassUID), part[0].uid, min(frame.z_mm for frame in part), len(part)
        )
        for part in instances
    }
    lowest = groups[0][0].header
    settle(lowest.dataset)
    notes = (f"{repeated} repeated slices of equal content were passed over",) if repeated else ()
    return CTSeries(
        volume=CTVolume(pixels.hu, pixels.geometry, groups[0][0].layout.thickness_mm),
        header=lowest.dataset,
        instances=tuple(sorted(references.values(), key=lambda item: (item.z_mm, item.sop_instance_uid))),
        acquisition=Acquisition.of(lowest.dataset),
        notes=notes,
    )
