"""DICOM objects as the bytes of a file, always the same for the same data set."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from pydicom import dcmwrite

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def file_bytes(dataset: Dataset) -> bytes:
    """Return a PS3.10 file: preamble, file meta information, data set."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom cites values: patient data would reach the log
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
