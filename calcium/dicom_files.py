"""DICOM files from outside: opened with bounded memory, every fault a typed error.

Everything in a file is hostile: lengths that lie, deflate bombs, recursion. Nothing but `SeriesError` and
`ResourcesError` leaves this module.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from calcium.errors import AgatstonError, ResourcesError, SeriesError, TooLargeError, UnreadableInstanceError

# pydicom quotes the values that it complains of, thus patient data, in its log (and in warnings: `guarded`).
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

MAX_HEADER_BYTES = 32 << 20
"""Most bytes before the pixel data; the functional groups of 4,000 frames need about 10 MB."""
PREAMBLE_BYTES = 128
"""PS3.10 7.1: 128 bytes of preamble, then the prefix DICM."""
UNDEFINED_LENGTH = 0xFFFFFFFF
"""PS3.5 7.1.1: length of an encapsulated Pixel Data element."""
PIXEL_DATA = (0x7FE0, 0x0010)
_PIXEL_TAGS = {0x7FE00010, 0x7FE00008, 0x7FE00009}  # Pixel Data, Float and Double Float Pixel Data
HEADER_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "Modality",
    "Manufacturer", "ManufacturerModelName", "StudyDescription", "SeriesDescription",
    "DerivationDescription", "PatientID", "ContrastBolusAgent", "ContrastBolusRoute",
    "ContrastBolusVolume", "ContrastBolusTotalDose", "ContrastBolusIngredient",
    "ContrastBolusAgentSequence", "BodyPartExamined", "ScanOptions", "SliceThickness", "KVP",
    "SpacingBetweenSlices", "ProtocolName", "ConvolutionKernel", "Exposure", "XRayTubeCurrent",
    "ExposureTime", "PatientPosition", "GantryDetectorTilt", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "AcquisitionNumber", "AcquisitionUID", "AcquisitionDateTime", "AcquisitionTime",
    "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "LossyImageCompression",
    "RescaleType", "RescaleSlope", "RescaleIntercept", "VolumetricProperties",
    "VolumeBasedCalculationTechnique", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""What `read_headers` keeps: enough to screen a series."""


class BoundedFile(io.RawIOBase):
    """A binary file that never reads past `size`: a claim of 4 GB in a file of 1 kB allocates 1 kB.

    Parameters
    ----------
    file
        File to read from; closed with this object.
    size
        Bytes that may be read.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__()
        self._file = file
        self._size = size
        self._position = 0
        file.seek(0)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, within 0 and `size`; return the new position."""
        base = (0, self._position, self._size)[whence]
        self._position = min(max(base + offset, 0), self._size)
        return self._file.seek(self._position)

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, fewer at the end."""
        left = self._size - self._position
        count = left if size is None or size < 0 else min(size, left)
        data = self._file.read(count)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file underneath too."""
        self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data of a file lie.

    Parameters
    ----------
    offset
        Of the element's value, from the start of the (inflated) file, bytes.
    length
        Of the value, bytes; `UNDEFINED_LENGTH` where it is encapsulated.
    """

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """A file without its pixels.

    Parameters
    ----------
    path
        The file.
    dataset
        All elements before the pixel data, with ``file_meta``.
    transfer_syntax
        From the file meta information.
    meta_end
        Where the data set begins, bytes from the start of the file.
    pixels
        None where the file has no Pixel Data element.
    """

    path: Path
    dataset: FileDataset
    transfer_syntax: UID
    meta_end: int
    pixels: PixelElement | None


@contextmanager
def guarded(what: str, uid: str | None = None) -> Iterator[None]:
    """Turn whatever hostile bytes make pydicom and the decoders raise into a typed error without patient data.

    pydicom's warnings quote values, thus patient data: they are dropped.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except AgatstonError:
        raise
    except MemoryError as error:
        raise ResourcesError(f"out of memory while reading {what}", uid=uid) from error
    except Exception as error:
        # The error's own text may quote a value: only its type is told.
        raise UnreadableInstanceError(f"{what} is not readable ({type(error).__name__})", uid=uid) from error


def _inflate(file: BinaryIO, start: int, limit: int) -> bytes:
    """Return a deflated file with its data set inflated, cut at `limit` bytes: a bomb stops there (PS3.5 A.5).

    Parameters
    ----------
    file
        File in Deflated Explicit VR Little Endian.
    start
        Where the deflated data set begins.
    limit
        Most bytes to return.
    """
    file.seek(0)
    parts = [file.read(start)]
    size = start
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    while size < limit and not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(1 << 16)
        if not packed:
            break
        parts.append(unpacker.decompress(packed, limit - size))
        size += len(parts[-1])
    return b"".join(parts)


def is_dicom(path: Path) -> bool:
    """Tell whether a regular file has the DICOM prefix (PS3.10 7.1)."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(PREAMBLE_BYTES)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def open_source(header: Header, limit: int) -> BoundedFile:
    """Open a file again, inflated where it is deflated, to read its pixel data.

    Parameters
    ----------
    header
        Of the file.
    limit
        Most bytes to read from the start of the (inflated) file.
    """
    file = header.path.open("rb")
    if header.transfer_syntax == DeflatedExplicitVRLittleEndian:
        with file:
            data = _inflate(file, header.meta_end, limit)
        return BoundedFile(io.BytesIO(data), len(data))
    return BoundedFile(file, min(os.fstat(file.fileno()).st_size, limit))


def _pixel_element(source: BoundedFile, dataset: FileDataset) -> PixelElement | None:
    """Read the head of the element before which pydicom stopped."""
    implicit, little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    head = source.read(8)
    if (int.from_bytes(head[0:2], order), int.from_bytes(head[2:4], order)) != PIXEL_DATA:
        return None
    # PS3.5 7.1.2: with explicit VR, OB and OW have two reserved bytes and a length of four bytes.
    length = head[4:8] if implicit else source.read(4)
    return PixelElement(source.tell(), int.from_bytes(length, order))


def _stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def read_header(path: Path, keywords: Collection[str] | None = None) -> Header:
    """Read one file up to its pixel data.

    Parameters
    ----------
    path
        A DICOM file.
    keywords
        Elements to keep; all when None.

    Raises
    ------
    UnreadableInstanceError
        Not DICOM, truncated, or nested too deeply.
    TooLargeError
        More than `MAX_HEADER_BYTES` before the pixel data.
    ResourcesError
        Out of memory.
    """
    name = f"the file {path.name}"
    with guarded(name):
        if not is_dicom(path):
            raise UnreadableInstanceError(f"{name} is not a DICOM file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            source = BoundedFile(file, min(size, MAX_HEADER_BYTES))
            source.seek(PREAMBLE_BYTES + 4)
            # PS3.10 7.1: the file meta information is Explicit VR Little Endian.
            meta = FileMetaDataset(read_dataset(source, False, True, stop_when=_after_meta))  # type: ignore[arg-type]
            syntax = UID(str(meta.TransferSyntaxUID))
            meta_end = source.tell()
            if syntax == DeflatedExplicitVRLittleEndian:
                data = _inflate(file, meta_end, MAX_HEADER_BYTES)
                source = BoundedFile(io.BytesIO(data), len(data))
                source.seek(meta_end)
            # PS3.5 A.4: every encapsulated syntax is Explicit VR Little Endian underneath.
            known = syntax.is_transfer_syntax
            implicit, little = (syntax.is_implicit_VR, syntax.is_little_endian) if known else (False, True)
            tags = None if keywords is None else [Tag(keyword) for keyword in keywords]
            body = read_dataset(source, implicit, little, stop_when=_stop, specific_tags=tags)  # type: ignore[arg-type]
            implicit, little = (bool(flag) for flag in body.original_encoding)
            dataset = FileDataset(path, body, None, meta, implicit, little)
            dataset.set_original_encoding(implicit, little, body.original_character_set)
            pixels = _pixel_element(source, dataset)
            if pixels is None and source.tell() >= MAX_HEADER_BYTES:
                raise TooLargeError(f"{name} has more than {MAX_HEADER_BYTES >> 20} MiB before its pixel data")
        return Header(path, dataset, syntax, meta_end, pixels)


class SeriesGroups(dict[str, list[Path]]):
    """Files by Series Instance UID, and those that could not be read.

    Parameters
    ----------
    unreadable
        Files with the DICOM prefix that no header could be read from, or without a Series Instance UID.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: list[Path] = []


def settle(dataset: Dataset) -> None:
    """Decode all elements now, and drop those that cannot be: later readers meet neither errors nor warnings.

    Parameters
    ----------
    dataset
        Changed in place, nested data sets and the file meta information included.
    """
    meta = getattr(dataset, "file_meta", None)
    if meta is not None:
        settle(meta)
    for tag in list(dataset.keys()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                element = dataset[tag]
                nested = list(element.value or ()) if element.VR == "SQ" else []
                for item in nested:
                    settle(item)
                str(element.value)
        except Exception:  # noqa: BLE001 - hostile values raise anything
            del dataset[tag]


def _walk(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names))
        else:
            yield path


def group_by_series(paths: Iterable[Path]) -> SeriesGroups:
    """Group DICOM files by series; folders are walked, files that are not DICOM are passed over.

    Parameters
    ----------
    paths
        Files and folders.

    Returns
    -------
    SeriesGroups
        Paths by Series Instance UID, in the order in which they were found, and ``unreadable``.
    """
    groups = SeriesGroups()
    for path in dict.fromkeys(_walk(paths)):
        if path.name == "DICOMDIR" or not is_dicom(path):
            continue
        try:
            uid = str(read_header(path, ("SeriesInstanceUID",)).dataset.get("SeriesInstanceUID") or "")
        except (SeriesError, ResourcesError):
            uid = ""
        if uid:
            groups.setdefault(uid, []).append(path)
        else:
            groups.unreadable.append(path)
    return groups


def read_headers(paths: Iterable[Path]) -> list[Dataset]:
    """Read the elements that decide on eligibility, without pixels and in bounded memory.

    Parameters
    ----------
    paths
        Files of one series.

    Returns
    -------
    list of pydicom.Dataset
        One for each file, in the order of `paths`, with the elements in `HEADER_KEYWORDS` and ``file_meta``.

    Raises
    ------
    SeriesError
        A file is not readable.
    ResourcesError
        Out of memory.
    """
    return [read_header(path, HEADER_KEYWORDS).dataset for path in paths]
