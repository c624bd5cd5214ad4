"""Stored pixel values of CT frames: read and decoded with bounded memory, then turned into HU.

The code stream's own size is compared with Rows and Columns before a decoder sees it, so that a small file
cannot make a decoder allocate gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from calcium import jpeg_lossless
from calcium.codestream import check_frame, ended
from calcium.dicom_files import UNDEFINED_LENGTH, Header, open_source
from calcium.errors import PixelDataError, ResourcesError
from calcium.frames import Frame, Storage

NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
JPEG_LOSSLESS = frozenset({JPEGLossless, JPEGLosslessSV1})
# Other transfer syntaxes -> pydicom's decoding plugin: fast, bit by bit right, hard to bring down.
PLUGINS: dict[UID, str] = {
    RLELossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
}
JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
LOSSY = frozenset({JPEGLSNearLossless, JPEG2000})

AIR_HU = -1024
"""HU of padding, and the lowest HU kept: 12 stored bits with the usual intercept reach no lower."""
HIGHEST_HU = 32767
"""Highest HU that int16 holds."""
TISSUE_HU = (-1000, 3000)
"""A padding value between these may be a value of tissue, HU: it is believed outside the scan circle only."""
MAX_EXPANSION = 2
"""A compressed frame may be at most this times as long as the plain one (noise expands by some percent)."""
SLACK_BYTES = 1 << 20
"""Room for offset tables and item heads behind the start of the pixel data, bytes."""


def _native(header: Header, frames: list[Frame]) -> Iterator[tuple[Frame, NDArray[np.generic]]]:
    """Yield the stored values of uncompressed frames, (rows, columns)."""
    pixels, layout = header.pixels, frames[0].layout
    assert pixels is not None
    size = layout.rows * layout.columns * 2
    count = len(frames)
    uid = frames[0].uid
    if pixels.length != UNDEFINED_LENGTH and pixels.length < size * count:
        raise PixelDataError(f"{pixels.length} bytes of pixel data where {size * count} are needed", uid=uid)
    _, little = header.dataset.original_encoding
    kind = np.dtype(("<" if little else ">") + ("i2" if frames[0].storage.signed else "u2"))
    with open_source(header, pixels.offset + size * count) as source:
        source.seek(pixels.offset)
        for frame in frames:
            data = source.read(size)
            if len(data) != size:
                raise PixelDataError("the pixel data are truncated", uid=uid)
            yield (
                frame,
                _used_bits(np.frombuffer(data, kind).reshape(layout.rows, layout.columns), frame.storage),
            )


def _used_bits(stored: NDArray[np.generic], storage: Storage) -> NDArray[np.generic]:
    """Clear what lies above Bits Stored, e.g. overlays of old scanners, and extend the sign (PS3.5 8.1.1)."""
    spare = 16 - storage.bits_stored
    if spare == 0:
        return stored
    native: NDArray[Any] = stored.astype(stored.dtype.newbyteorder("="))
    return (native << spare) >> spare


def _encapsulated(header: Header, frames: list[Frame]) -> Iterator[tuple[Frame, NDArray[np.generic]]]:
    """Yield the stored values of compressed frames, (rows, columns)."""
    pixels, layout, uid = header.pixels, frames[0].layout, frames[0].uid
    assert pixels is not None
    syntax = header.transfer_syntax
    if syntax not in PLUGINS and syntax not in JPEG_LOSSLESS:
        raise PixelDataError(f"transfer syntax {syntax} is not supported", uid=uid)
    plain = layout.rows * layout.columns * 2
    limit = plain * MAX_EXPANSION + SLACK_BYTES
    with open_source(header, pixels.offset + limit * len(frames)) as source:
        source.seek(pixels.offset)
        found = 0
        for frame, data in zip(frames, generate_frames(source, number_of_frames=len(frames)), strict=False):
            found += 1
            if len(data) > limit:
                raise PixelDataError(f"a compressed frame of {len(data)} bytes for {plain}", uid=uid)
            try:
                check_frame(data, syntax, layout.rows, layout.columns)
            except ValueError as error:
                raise PixelDataError(str(error), uid=uid) from error
            array = _decode(data, syntax, frame)
            if array.shape != (layout.rows, layout.columns) or array.dtype.kind not in "iu":
                raise PixelDataError(f"decoded to {array.shape} of {array.dtype}", uid=uid)
            yield frame, array
        if found != len(frames):
            raise PixelDataError(f"{found} frames of pixel data where the header says {len(frames)}", uid=uid)


def _decode(data: bytes, syntax: UID, frame: Frame) -> NDArray[np.generic]:
    """Return the stored values of one compressed frame, (rows, columns)."""
    layout, storage = frame.layout, frame.storage
    if syntax in JPEG_LOSSLESS:
        array: NDArray[Any] = jpeg_lossless.decode(
            data,
            rows=layout.rows,
            columns=layout.columns,
            bits_stored=storage.bits_stored,
            signed=storage.signed,
            transfer_syntax=syntax,
        )
        return _used_bits(array, storage) if array.dtype.itemsize == 2 else array
    if syntax in JPEG_LS:
        data = ended(data)
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "bits_allocated": 16,
        "bits_stored": storage.bits_stored,
        "pixel_representation": int(storage.signed),
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB",
    }
    try:
        array, _ = get_decoder(syntax).as_array(
            encapsulate([data], has_bot=False), raw=True, decoding_plugin=PLUGINS[syntax], **options
        )
    except BaseException as error:
        # A Rust decoder's panic is no Exception.
        if type(error).__name__ == "PanicException":
            raise PixelDataError("the pixel data are not decodable (panic)", uid=frame.uid) from error
        raise
    return array


def stored_frames(header: Header, frames: list[Frame]) -> Iterator[tuple[Frame, NDArray[np.generic]]]:
    """Yield the stored values of the frames of one instance.

    Parameters
    ----------
    header
        Of the instance.
    frames
        All frames of the instance, by rising index.

    Yields
    ------
    tuple
        Frame and its stored values, 16-bit integer, (rows, columns) as stored.

    Raises
    ------
    PixelDataError
        Missing, truncated, of another size, or not decodable.
    ResourcesError
        Out of memory.
    """
    read = _native if header.transfer_syntax in NATIVE else _encapsulated
    uid = frames[0].uid
    try:
        yield from read(header, frames)
    except (PixelDataError, ResourcesError):
        raise
    except MemoryError as error:
        raise ResourcesError("out of memory while decoding", uid=uid) from error
    except Exception as error:
        # A decoder's text may hold anything from the file: only its type is told.
        raise PixelDataError(f"the pixel data are not decodable ({type(error).__name__})", uid=uid) from error


def to_hu(stored: NDArray[np.generic], frame: Frame) -> NDArray[np.int16]:
    """Return the HU of stored values.

    Parameters
    ----------
    stored
        16-bit integer, (rows, columns).
    frame
        Its slope, intercept and padding.

    Returns
    -------
    numpy.ndarray
        int16 HU, (rows, columns); padding and everything below is -1024.
    """
    slope, intercept = frame.slope, frame.intercept
    hu: NDArray[Any]
    if slope == 1 and intercept == int(intercept):
        hu = np.add(stored, int(intercept), dtype=np.int32, casting="unsafe")
    else:
        hu = np.rint(stored.astype(np.float64) * slope + intercept)
    np.clip(hu, AIR_HU, HIGHEST_HU, out=hu)
    result: NDArray[np.int16] = hu.astype(np.int16)
    if frame.storage.padding is not None:
        low, high = frame.storage.padding
        padded = (stored >= low) & (stored <= high)  # type: ignore[operator]
        highest = slope * high + intercept
        lowest = slope * low + intercept
        if highest > TISSUE_HU[0] and lowest < TISSUE_HU[1]:
            padded &= outside_circle(*stored.shape)
        result[padded] = AIR_HU
    return result


def outside_circle(rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels outside the circle that touches the image's edges, bool, (rows, columns)."""
    y = (np.arange(rows) - (rows - 1) / 2)[:, None]
    x = (np.arange(columns) - (columns - 1) / 2)[None, :]
    return np.asarray(x * x + y * y > (min(rows, columns) / 2) ** 2)
