"""A small encoder of JPEG lossless (ITU-T T.81 process 14, selection value 1), for tests: pydicom has none."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

CODE_BITS = 5  # one code length for all 17 categories of T.81 Table H.2


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def encode(stored: np.ndarray, precision: int) -> bytes:
    """Return the code stream of one image, (rows, columns) of `precision` bits."""
    rows, columns = stored.shape
    values = stored.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]  # T.81 Table H.1, selection value 1: the pixel to the left
    predicted[1:, 0] = values[:-1, 0]  # H.1.2.1: at the start of a line the pixel above
    predicted[0, 0] = 1 << (precision - 1)
    bits = []
    for difference in (values - predicted).ravel().tolist():
        category = abs(difference).bit_length()
        bits.append(format(category, f"0{CODE_BITS}b"))
        if category:
            value = difference if difference > 0 else difference + (1 << category) - 1  # F.1.2.1.1
            bits.append(format(value, f"0{category}b"))
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")  # B.1.1.5
    frame = bytes([precision, *rows.to_bytes(2, "big"), *columns.to_bytes(2, "big"), 1, 1, 0x11, 0])
    lengths = bytes([17 if length == CODE_BITS else 0 for length in range(1, 17)])
    return (
        b"\xff\xd8"
        + _segment(0xC3, frame)
        + _segment(0xC4, b"\0" + lengths + bytes(range(17)))
        + _segment(0xDA, b"\1\1\0\1\0\0")
        + scan
        + b"\xff\xd9"
    )


def compress(dataset: Dataset) -> None:
    """Turn the plain pixels of a one-frame data set into JPEG lossless, in place."""
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    dataset.PixelData = encapsulate([encode(stored, dataset.BitsStored)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
