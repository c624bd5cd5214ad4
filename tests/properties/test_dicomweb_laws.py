"""Laws of the DICOMweb client: how a message is cut does not matter, and nothing from outside ends it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calcium.errors import SettingsError, UnreadableInstanceError
from service.dicomweb.attributes import MAX_TEXT, number_of, text_of, values_of
from service.dicomweb.multipart import MalformedError, OneFile, boundary_of, parts
from service.dicomweb.part10 import read_meta
from service.dicomweb.server import path_of
from service.dicomweb.storage import MAX_WAIT_SECONDS, retry_after

LAX = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
BOUNDARY = "b-1"
# Bytes that look like boundaries and line ends more often than chance would have them.
BODIES = st.lists(
    st.sampled_from([b"\r\n--b-1", b"--b-1--", b"\r\n", b"\r", b"-", b"x", b"\0"]), max_size=8
).map(b"".join)


def message(bodies):
    head = b"\r\n--b-1\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + body for body in bodies)[2:] + b"\r\n--b-1--\r\n"


def cut(content, places):
    ends = sorted({min(place, len(content)) for place in places} | {len(content)})
    starts = [0, *ends[:-1]]
    return [content[start:end] for start, end in zip(starts, ends, strict=True)]


@LAX
@given(
    bodies=st.lists(BODIES.filter(lambda body: b"\r\n--b-1" not in b"\r\n" + body), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 300), max_size=10),
)
def test_the_parts_are_what_was_sent_however_the_message_is_cut(bodies, places):
    found = parts(cut(message(bodies), places), BOUNDARY, limit=1000)
    assert [bytes(one) for one in found] == bodies


@LAX
@given(content=st.lists(st.one_of(BODIES, st.binary(max_size=30)), max_size=6))
def test_anything_is_parts_or_malformed(content):
    with contextlib.suppress(MalformedError):
        assert sum(len(one) for one in parts(content, BOUNDARY, limit=20)) <= sum(map(len, content))


@LAX
@given(body=st.binary(min_size=11, max_size=40))
def test_a_part_beyond_the_limit_is_refused(body):
    with pytest.raises(MalformedError, match="more than 10 bytes"):
        list(parts([message([body.replace(b"\r", b"_")])], BOUNDARY, limit=10))


@LAX
@given(content=st.binary(max_size=200))
def test_a_sent_file_is_read_back(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "sent"
    path.write_bytes(content)
    sent = OneFile(path)
    pieces = list(sent)
    assert sum(map(len, pieces)) == sent.length
    assert list(parts(pieces, boundary_of(sent.content_type), limit=200)) == [content]


@LAX
@given(head=st.binary(max_size=80))
def test_a_file_head_is_read_or_refused(head):
    for file in (head, bytes(128) + b"DICM" + head, bytes(128) + b"DICM\x02\x00" + head):
        try:
            meta = read_meta(memoryview(file))
        except UnreadableInstanceError:
            continue
        assert meta.start <= len(file)
        assert meta.transfer_syntax_uid


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0020000D", "00081197", "Value", "vr"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@LAX
@given(answer=JSON)
def test_any_json_is_read_as_text_or_nothing(answer):
    answer = json.loads(json.dumps(answer))
    text = text_of(answer, "StudyInstanceUID")
    assert len(text) <= MAX_TEXT
    assert text.isprintable()
    assert isinstance(values_of(answer, "FailureReason"), list)
    number = number_of(answer, "FailureReason")
    assert number is None or number >= 0


@LAX
@given(text=st.text(max_size=40) | st.integers().map(str))
def test_any_retry_after_is_a_bounded_wait(text):
    assert 0 <= retry_after(text) <= MAX_WAIT_SECONDS


@LAX
@given(uid=st.text(min_size=1, max_size=70))
def test_a_path_holds_uids_only(uid):
    with contextlib.suppress(SettingsError):
        assert set(path_of(studies=uid, series="")) <= set("/studies/series0123456789.")
