"""JPEG lossless (ITU-T T.81 process 14), decoded by the GDCM inside SimpleITK.

pydicom's plugin for it, python-gdcm, lets C++ exceptions of hostile code streams abort the process; SimpleITK
turns them into RuntimeError, and decodes as fast. It reads files only: a frame gets a DICOM file in memory.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, SecondaryCaptureImageStorage

# Pixel Data (7FE0,0010) OB of undefined length with an empty offset table (PS3.5 A.4).
_PIXEL_HEAD = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0"
_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


@lru_cache(maxsize=16)
def _head(rows: int, columns: int, bits_stored: int, signed: bool, transfer_syntax: UID) -> bytes:
    """Return a DICOM file up to its pixel data; a secondary capture, so that GDCM applies no rescaling."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = UID("2.25.2")
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@contextmanager
def _in_memory(parts: list[bytes]) -> Iterator[str]:
    """Give a path under which the bytes can be read: anonymous memory on Linux, else a temporary file."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("frame"), "wb") as file:
            file.writelines(parts)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "frame.dcm")  # noqa: PTH118 - SimpleITK takes text
            with open(path, "wb") as file:  # noqa: PTH123
                file.writelines(parts)
            yield path


def decode(
    data: bytes, *, rows: int, columns: int, bits_stored: int, signed: bool, transfer_syntax: UID
) -> NDArray[Any]:
    """Return the stored values of one frame.

    Parameters
    ----------
    data
        One code stream.
    rows, columns, bits_stored, signed, transfer_syntax
        As in the header.

    Returns
    -------
    numpy.ndarray
        16-bit integer, (rows, columns).

    Raises
    ------
    RuntimeError
        Not decodable.
    """
    frame = data + b"\0" * (len(data) % 2)
    parts = [
        _head(rows, columns, bits_stored, signed, transfer_syntax),
        _PIXEL_HEAD,
        _ITEM + len(frame).to_bytes(4, "little"),
        frame,
        _END,
    ]
    with _in_memory(parts) as path:
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(path)
        image: NDArray[Any] = SimpleITK.GetArrayFromImage(reader.Execute())
    return image.reshape(image.shape[-2:])
