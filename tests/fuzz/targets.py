"""What is fuzzed: each target takes bytes, and may end only as its contract says.

Seeds are synthetic and as small as their format allows, so that most mutations hit a header. Where an input is
of several kinds, its first byte chooses one.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lossless_jpeg
import numpy as np
import pydicom
from dicom_series import enhanced, series
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import build_context
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from receiving import Receiver, receiver

from calcium import pixels
from calcium.codestream import check_frame
from calcium.dicom_files import read_header, settle
from calcium.eligibility import screen
from calcium.errors import MissingAttributeError, NotEligibleError, SeriesError, UnreadableInstanceError
from calcium.frames import Frame, Layout, Storage, frames_of
from calcium.series import read_headers, read_series
from service.heads import UID_PATTERN, read_head
from service.statuses import STATUSES

SIDE = 8  # pixels of a plain image: calcium.frames.MIN_SIDE
COMPRESSED_SIDE = 32  # the least that OpenJPEG's encoder takes
SECRET = "Person"  # in every seed's PatientName: no error may repeat it
INSTANCE = "2.25.7700.3.1"  # SOP Instance UID of every seed that is sent
SLOW_SECONDS = 1.0  # CPU of one small input
PLAIN = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
)  # fmt: skip
COMPRESSED = (JPEGLSLossless, JPEG2000Lossless, RLELossless, JPEGLosslessSV1, JPEGLSNearLossless)


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Parameters
    ----------
    run
        Takes one input; an exception is a finding.
    seeds
        Sound inputs to start from.
    longest
        Most bytes of an input.
    """

    run: Callable[[bytes], None]
    seeds: list[bytes]
    longest: int = 2048


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a scratch folder in TMPDIR; libFuzzer ends the process without leaving the block."""
    folder = Path(tempfile.mkdtemp(prefix="agatston-fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _smooth(slices: int, side: int) -> np.ndarray:
    """Return HU that compress well, int16, (slice, row, column)."""
    return (np.add.outer(np.arange(slices) * 7, np.add.outer(np.arange(side), np.arange(side))) - 900).astype(
        np.int16
    )


@cache
def files(syntax: UID) -> list[bytes]:
    """Return three files of one series in one transfer syntax."""
    if syntax not in COMPRESSED:
        return [_file(dataset) for dataset in series(_smooth(3, SIDE), syntax=syntax)]
    found = series(_smooth(3, COMPRESSED_SIDE))
    for dataset in found:
        if syntax == JPEGLosslessSV1:
            lossless_jpeg.compress(dataset)
        else:
            options = {"jls_error": 2} if syntax == JPEGLSNearLossless else {}
            dataset.compress(syntax, generate_instance_uid=False, **options)
    return [_file(dataset) for dataset in found]


def _file(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _data_set(file: bytes) -> bytes:
    # PS3.10 7.1: 128 + 4 bytes, then (0002,0000) UL, whose value counts what follows of the meta information.
    return file[132 + 12 + int.from_bytes(file[140:144], "little") :]


def _code_stream(syntax: UID) -> bytes:
    found = pydicom.dcmread(BytesIO(files(syntax)[0])).PixelData
    return next(iter(generate_frames(found, number_of_frames=1)))


def _no_patient(error: Exception) -> None:
    assert SECRET not in str(error), "an error repeats patient data"


def _chosen(kinds: tuple[Any, ...], data: bytes) -> tuple[Any, bytes]:
    return kinds[(data[0] if data else 0) % len(kinds)], data[1:]


@contextlib.contextmanager
def head() -> Iterator[Target]:
    """UIDs of an encoded data set, as C-STORE reads them."""

    def run(data: bytes) -> None:
        syntax, rest = _chosen(PLAIN, data)
        try:
            found = read_head(rest, syntax)
        except (MissingAttributeError, UnreadableInstanceError):
            return
        for uid in (found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid):
            assert UID_PATTERN.match(uid.encode()), "no UID"

    yield Target(run, [bytes([i]) + _data_set(files(syntax)[0])[:800] for i, syntax in enumerate(PLAIN)], 1024)


@contextlib.contextmanager
def header() -> Iterator[Target]:
    """A file's header: screened, turned into frames, decoded element by element."""
    with scratch() as folder:
        path = folder / "a.dcm"

        def run(data: bytes) -> None:
            path.write_bytes(data)
            try:
                screen(read_headers([path]))
            except (SeriesError, NotEligibleError) as error:
                _no_patient(error)
            try:
                found = read_header(path)
                list(frames_of(found))
            except SeriesError as error:
                _no_patient(error)
                return
            settle(found.dataset)
            str(found.dataset)

        yield Target(run, [files(syntax)[0] for syntax in PLAIN] + [_file(enhanced(_smooth(2, SIDE)))])


@contextlib.contextmanager
def volume() -> Iterator[Target]:
    """A series of three files, one of them hostile, to a volume."""
    kinds = (*PLAIN, *COMPRESSED)
    with scratch() as folder:
        for syntax in kinds:
            for index, content in enumerate(files(syntax)):
                (folder / f"{syntax}-{index}").write_bytes(content)

        def run(data: bytes) -> None:
            syntax, rest = _chosen(kinds, data)
            hostile = folder / "hostile"
            hostile.write_bytes(rest)
            started = time.process_time()
            try:
                found = read_series([folder / f"{syntax}-0", hostile, folder / f"{syntax}-2"])
            except SeriesError as error:
                _no_patient(error)
            else:
                assert found.volume.hu.ndim == 3
                assert found.volume.hu.min() >= pixels.AIR_HU
                str(found.header)
            assert time.process_time() - started < SLOW_SECONDS, "slow"

        yield Target(run, [bytes([i]) + files(syntax)[1] for i, syntax in enumerate(kinds)])


@contextlib.contextmanager
def codestream() -> Iterator[Target]:
    """The header of a code stream."""

    def run(data: bytes) -> None:
        syntax, rest = _chosen(COMPRESSED, data)
        try:
            check_frame(rest, syntax, COMPRESSED_SIDE, COMPRESSED_SIDE)
        except ValueError as error:
            assert type(error) is ValueError, "an accident, not a refusal"  # noqa: PT017

    yield Target(run, [bytes([i]) + _code_stream(syntax) for i, syntax in enumerate(COMPRESSED)], 512)


@contextlib.contextmanager
def decoder() -> Iterator[Target]:
    """A code stream to pixels, through the native decoders."""
    layout = Layout(COMPRESSED_SIDE, COMPRESSED_SIDE, (1.0, 1.0), 1.0, (1, 0, 0, 0, 1, 0))
    frame = Frame(None, "1.2", 0, (0.0, 0.0, 0.0), layout, Storage(12, False, None), 1.0, -1024.0)  # type: ignore[arg-type]

    def run(data: bytes) -> None:
        syntax, rest = _chosen(COMPRESSED, data)
        started = time.process_time()
        # calcium.pixels turns all of these into PixelDataError: what is looked for is crash, time and memory.
        with contextlib.suppress(Exception):
            check_frame(rest, syntax, COMPRESSED_SIDE, COMPRESSED_SIDE)
            pixels._decode(rest, syntax, frame)
        assert time.process_time() - started < SLOW_SECONDS, f"slow: {syntax}"

    yield Target(run, [bytes([i]) + _code_stream(syntax) for i, syntax in enumerate(COMPRESSED)], 1024)


@contextlib.contextmanager
def _node() -> Iterator[Receiver]:
    """Run a node whose refusals are not written to the console."""
    logging.getLogger("service").setLevel(logging.CRITICAL + 1)
    with scratch() as folder, receiver(folder, max_series_instances=50, acse_timeout=2) as node:
        yield node


class _Sender:
    """Stands for the association of a handler's event."""

    requestor = SimpleNamespace(
        ae_title="SCANNER", address="127.0.0.1", primitive=SimpleNamespace(called_ae_title="AGATSTON")
    )
    is_established = False


@contextlib.contextmanager
def store() -> Iterator[Target]:
    """A C-STORE data set through the SCP's handler and the inbox: file, row, status."""
    with _node() as node:
        sender = _Sender()

        def run(data: bytes) -> None:
            syntax, rest = _chosen(PLAIN, data)
            request = SimpleNamespace(
                DataSet=BytesIO(rest), AffectedSOPInstanceUID=INSTANCE, AffectedSOPClassUID=CTImageStorage
            )
            event = SimpleNamespace(
                assoc=sender, context=SimpleNamespace(transfer_syntax=syntax), request=request
            )
            answer = node.scp._on_store(event)
            status = answer if isinstance(answer, int) else int(answer.Status)
            assert status != STATUSES["internal"], "internal error"

        yield Target(run, [bytes([i]) + _data_set(files(syntax)[0]) for i, syntax in enumerate(PLAIN)], 1024)


@contextlib.contextmanager
def commitment() -> Iterator[Target]:
    """N-ACTION and N-EVENT-REPORT data sets of storage commitment through their handlers."""
    with _node() as node:
        # Rows alone: a thread a request would outrun the answers.
        node.scp._answer_here = lambda *_: None
        handlers = ("_on_action", "_on_event_report")
        sender = _Sender()

        def run(data: bytes) -> None:
            handler, rest = _chosen(handlers, data)

            class Event:
                assoc = sender
                action_type = 1

                @property
                def action_information(self) -> Dataset:
                    return decode(BytesIO(rest), False, True)

                event_information = action_information

            status, _ = getattr(node.scp, handler)(Event())
            assert status in {0x0000, 0x0115}, "internal error"

        wanted = Dataset()
        wanted.TransactionUID = "1.2.3"
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, "1.2.4"
        wanted.ReferencedSOPSequence = [reference]
        report = Dataset()
        report.TransactionUID = "1.2.3"
        failed = Dataset()
        failed.update(reference)
        failed.FailureReason = 0x0112
        report.ReferencedSOPSequence, report.FailedSOPSequence = [reference], [failed]
        yield Target(run, [b"\0" + encode(wanted, False, True), b"\1" + encode(report, False, True)], 512)


def association_bytes() -> bytes:
    """Return what a sender writes: A-ASSOCIATE-RQ, one C-STORE-RQ with its data set, A-RELEASE-RQ."""
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "SCANNER", "AGATSTON"
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received, implementation.implementation_class_uid = 16384, UID("2.25.1")
    request.user_information = [longest, implementation]
    context = build_context(CTImageStorage, ExplicitVRLittleEndian)
    context.context_id = 1
    request.presentation_context_definition_list = [context]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    send = C_STORE()
    send.MessageID, send.Priority = 1, 2
    send.AffectedSOPClassUID, send.AffectedSOPInstanceUID = CTImageStorage, INSTANCE
    send.DataSet = BytesIO(_data_set(files(ExplicitVRLittleEndian)[0]))
    message = C_STORE_RQ()
    message.primitive_to_message(send)
    parts = [pdu.encode()]
    for primitive in message.encode_msg(1, 16384):
        data = P_DATA_TF()
        data.from_primitive(primitive)
        parts.append(data.encode())
    return b"".join(parts) + struct.pack(">BBLL", 5, 0, 4, 0)


@contextlib.contextmanager
def port() -> Iterator[Target]:
    """Bytes to the DICOM port over TCP; every connection ends, and no thread dies of them."""
    died: list[str] = []

    def note(arguments: threading.ExceptHookArgs) -> None:
        died.append(repr(arguments.exc_value))

    threading.excepthook = note
    with _node() as node:

        def run(data: bytes) -> None:
            # Longer than libFuzzer's bound, which then tells of the hang.
            connection = socket.create_connection(("127.0.0.1", node.port), timeout=60)
            with connection, contextlib.suppress(OSError):  # closed on us: what garbage deserves
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            assert not died, died

        yield Target(run, [association_bytes(), association_bytes()[:300]], 4096)
    threading.excepthook = threading.__excepthook__


TARGETS = {
    "head": head,
    "header": header,
    "volume": volume,
    "codestream": codestream,
    "decoder": decoder,
    "store": store,
    "commitment": commitment,
    "port": port,
}
"""Name -> what opens the target."""
