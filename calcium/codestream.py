"""Size of a compressed frame from its own code stream, read before any decoder is run."""

from __future__ import annotations

from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, RLELossless

# ITU-T T.81 B.1.1.3: SOF0..SOF15 without DHT (C4), JPG (C8), DAC (CC); ITU-T T.87 C.1.1: SOF55 (F7) of JPEG-LS.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
# Markers without a length: TEM, RST0-7, SOI.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


def frame_size(data: bytes, transfer_syntax: UID) -> tuple[int, int, int] | None:
    """Return (rows, columns, components) that a compressed frame declares.

    Parameters
    ----------
    data
        One compressed frame.
    transfer_syntax
        Its syntax.

    Returns
    -------
    tuple or None
        None for RLE, whose segments declare no size: its decoders are told the size and expand at most 64-fold.

    Raises
    ------
    ValueError
        No frame header.
    """
    if transfer_syntax == RLELossless:
        return None
    if transfer_syntax in (JPEG2000Lossless, JPEG2000):
        return _jpeg2000_size(data)
    return _jpeg_size(data)


def _number(data: bytes, offset: int, length: int) -> int:
    part = data[offset : offset + length]
    if len(part) != length:
        raise ValueError("the code stream ends in its header")
    return int.from_bytes(part, "big")


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Walk the marker segments up to the frame header (ITU-T T.81 B.2.2)."""
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
            # length 2, precision 1, lines 2, samples a line 2, components 1
            return _number(data, offset + 5, 2), _number(data, offset + 7, 2), _number(data, offset + 9, 1)
        elif marker in (0xDA, 0xD9):
            raise ValueError("image data before the frame header")
        else:
            length = _number(data, offset + 2, 2)
            if length < 2:
                raise ValueError("a marker segment shorter than its length")
            offset += 2 + length


def _jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """Read the SIZ marker segment, which follows SOC (ITU-T T.800 A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # a JP2 box may stand before it, against PS3.5 8.2.4
    if start < 0:
        raise ValueError("no SOC and SIZ markers")
    # SOC 2, SIZ 2, Lsiz 2, Rsiz 2; Xsiz, Ysiz, XOsiz, YOsiz, XTsiz, YTsiz, XTOsiz, YTOsiz 4 each; Csiz 2
    right, bottom, left, top = (_number(data, start + 8 + 4 * index, 4) for index in range(4))
    return bottom - top, right - left, _number(data, start + 40, 2)
