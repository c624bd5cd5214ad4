"""Multipart/related bodies (RFC 2046 section 5.1, RFC 2387, PS3.18 section 8.6.1), read and written in bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from service.dicomweb.server import CHUNK_BYTES

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

DICOM = "application/dicom"


class MalformedError(ValueError):
    """The body is no multipart message, ends before its last boundary, or has a part that is too large."""


def boundary_of(content_type: str) -> str:
    """Return the boundary of a multipart answer's Content-Type.

    Raises
    ------
    MalformedError
        It is of another type or has no boundary.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not boundary:
        raise MalformedError("not multipart/related with a boundary")
    return boundary


class _Gatherer:
    """Gathers the parts that a parser finds, none larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._part = bytearray()
        self.finished: list[bytearray] = []
        self.ended = False

    def callbacks(self) -> MultipartCallbacks:
        return {"on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._end,
                "on_end": self._all}  # fmt: skip

    def _begin(self) -> None:
        self._part = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if len(self._part) + end - start > self._limit:
            raise MalformedError(f"a part has more than {self._limit} bytes")
        self._part += memoryview(data)[start:end]

    def _end(self) -> None:
        self.finished.append(self._part)
        self._part = bytearray()

    def _all(self) -> None:
        self.ended = True


def parts(pieces: Iterable[bytes], boundary: str, *, limit: int) -> Iterator[bytearray]:
    """Yield the bodies of the parts as each is whole; at most `limit` bytes and one piece are in memory.

    Parameters
    ----------
    pieces
        The message as it comes, cut anywhere.
    limit
        Bytes of a part.

    Raises
    ------
    MalformedError
        See there; the parts before were whole.
    """
    gatherer = _Gatherer(limit)
    try:
        parser = MultipartParser(boundary.encode("latin-1"), gatherer.callbacks())
        for piece in pieces:
            parser.write(piece)
            finished, gatherer.finished = gatherer.finished, []
            while finished:
                yield finished.pop(0)
            if gatherer.ended:
                return
    except (FormParserError, UnicodeEncodeError):
        raise MalformedError("not a multipart message") from None
    raise MalformedError("the message ends before its last boundary")


class OneFile:
    """A multipart/related message of one DICOM file, which is read while it is sent.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FileNotFoundError
        There is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        boundary = uuid4().hex
        self._head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.content_type = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        self.length = len(self._head) + path.stat().st_size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with self._path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
        yield self._tail
