"""The header of a compressed frame's own code stream, read before any decoder is run."""

from __future__ import annotations

from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

# T.81 B.1.1.3: SOF0..SOF15 without DHT (C4), JPG (C8), DAC (CC); T.87 C.1.1: SOF55 (F7) of JPEG-LS.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
# Markers without a length: TEM, RST0-7, SOI.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
# The one frame marker of each syntax: SOF3 is lossless Huffman coding (T.81), SOF55 JPEG-LS (T.87).
_FRAME_MARKER = {JPEGLossless: 0xC3, JPEGLosslessSV1: 0xC3, JPEGLSLossless: 0xF7, JPEGLSNearLossless: 0xF7}
PRECISION = (2, 16)
"""Bits a sample: T.81 Table B.2 (lossless) and T.87 C.2.2."""
_END_OF_IMAGE = b"\xff\xd9"
MAX_TILES = 4096
"""Most tiles of a JPEG 2000 image: 64 x 64 of 8 pixels and more in 512 x 512."""


def check_frame(data: bytes, transfer_syntax: UID, rows: int, columns: int) -> None:
    """Refuse a compressed frame whose own header does not fit the data set's, before a decoder allocates.

    RLE segments declare no size: the decoder is told it, and expands at most 64-fold.

    Parameters
    ----------
    data
        One compressed frame.
    transfer_syntax
        Its syntax.
    rows, columns
        What the data set says.

    Raises
    ------
    ValueError
        No frame header, another size, not one component, an impossible precision, or thousands of tiles.
    """
    if transfer_syntax == RLELossless:
        return
    if transfer_syntax in (JPEG2000Lossless, JPEG2000):
        found, precision, components = _jpeg2000_header(data)
    else:
        found, precision, components = _jpeg_header(data, _FRAME_MARKER[transfer_syntax])
    if found != (rows, columns) or components != 1:
        size = f"{found[0]} x {found[1]} x {components}"
        raise ValueError(f"the compressed image is {size}, the header says {rows} x {columns} x 1")
    if not PRECISION[0] <= precision <= PRECISION[1]:
        raise ValueError(f"a compressed image of {precision} bits")


def ended(data: bytes) -> bytes:
    """Return a code stream of JPEG-LS with an EOI marker at its end.

    CharLS, at the end of a stream without any marker, reads zero bits for seconds before it gives up: 200 bytes
    cost 4 s of CPU. At a marker it stops at once.
    """
    return data if data.rstrip(b"\0").endswith(_END_OF_IMAGE) else data + _END_OF_IMAGE


def _number(data: bytes, offset: int, length: int) -> int:
    part = data[offset : offset + length]
    if len(part) != length:
        raise ValueError("the code stream ends in its header")
    return int.from_bytes(part, "big")


def _jpeg_header(data: bytes, frame_marker: int) -> tuple[tuple[int, int], int, int]:
    """Return (rows, columns), precision and components of the frame header (ITU-T T.81 B.2.2)."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no SOI marker")
    offset = 2
    while True:
        if _number(data, offset, 1) != 0xFF:
            raise ValueError("no marker where one must be")
        marker = _number(data, offset + 1, 1)
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _BARE_MARKERS:
            offset += 2
        elif marker in _FRAME_MARKERS:
            if marker != frame_marker:
                raise ValueError(f"frame marker {marker:02X} does not belong to the transfer syntax")
            # length 2, precision 1, lines 2, samples a line 2, components 1
            size = _number(data, offset + 5, 2), _number(data, offset + 7, 2)
            return size, _number(data, offset + 4, 1), _number(data, offset + 9, 1)
        elif marker in (0xDA, 0xD9):
            raise ValueError("image data before the frame header")
        else:
            length = _number(data, offset + 2, 2)
            if length < 2:
                raise ValueError("a marker segment shorter than its length")
            offset += 2 + length


def _jpeg2000_header(data: bytes) -> tuple[tuple[int, int], int, int]:
    """Return (rows, columns), precision and components of the SIZ segment (ITU-T T.800 A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # a JP2 box may stand before it, against PS3.5 8.2.4
    if start < 0:
        raise ValueError("no SOC and SIZ markers")
    # SOC, SIZ, Lsiz, Rsiz 2 each; Xsiz, Ysiz, XOsiz, YOsiz, XTsiz, YTsiz, XTOsiz, YTOsiz 4 each; Csiz 2; Ssiz 1
    right, bottom, left, top, tile_width, tile_height = (_number(data, start + 8 + 4 * i, 4) for i in range(6))
    width, height = right - left, bottom - top
    if tile_width < 1 or tile_height < 1 or (width // tile_width + 1) * (height // tile_height + 1) > MAX_TILES:
        raise ValueError("too many tiles")
    precision = (_number(data, start + 42, 1) & 0x7F) + 1
    return (height, width), precision, _number(data, start + 40, 2)
