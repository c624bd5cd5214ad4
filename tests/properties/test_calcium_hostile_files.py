"""Whatever bytes a file holds, reading a series ends with a volume or with a typed error."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from dicom_series import enhanced, pattern, series, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from calcium.eligibility import cautions, screen
from calcium.errors import NotEligibleError, SeriesError
from calcium.series import read_headers, read_series

HU = pattern(3)
FORMS = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "enhanced": None,
}


@functools.cache
def files(form):
    """Return the bytes of a series in one form."""
    syntax = FORMS[form]
    if syntax is None:
        datasets = [enhanced(HU)]
    elif syntax.is_compressed and not syntax.is_deflated:
        datasets = series(HU)
        for ds in datasets:
            ds.compress(syntax, generate_instance_uid=False)
    else:
        datasets = series(HU, syntax=syntax)
    with tempfile.TemporaryDirectory() as folder:
        return [path.read_bytes() for path in write(datasets, Path(folder))]


PLACES = st.floats(0, 1, exclude_max=True)
EDITS = st.lists(
    st.one_of(
        st.tuples(
            st.just("set"), PLACES, st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x01", b"\xff\xff\xff\xff"])
        ),
        st.tuples(st.just("set"), PLACES, st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("delete"), PLACES, st.sampled_from([b"x", b"xx", b"x" * 50])),
    ),
    min_size=1,
    max_size=6,
)


def edited(data, edits):
    data = bytearray(data)
    for kind, where, value in edits:
        place = int(132 + where * (len(data) - 132))
        if kind == "set":
            data[place : place + len(value)] = value
        elif kind == "insert":
            data[place:place] = value
        else:
            del data[place : place + len(value)]
    return bytes(data)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
@given(edits=EDITS)
@settings(max_examples=40, deadline=None)
def test_only_typed_errors_escape(form, edits):
    contents = list(files(form))
    contents[len(contents) // 2] = edited(contents[len(contents) // 2], edits)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, content in enumerate(contents):
            paths.append(Path(folder, f"{index}.dcm"))
            paths[-1].write_bytes(content)
        said = []
        try:
            screen(read_headers(paths))
        except (SeriesError, NotEligibleError) as error:
            said.append(str(error))
        try:
            found = read_series(paths)
        except SeriesError as error:
            said.append(str(error))
        else:
            assert found.volume.hu.shape == (3, 40, 36)
            cautions(found)
            str(found.header)
        assert "Person" not in " ".join(said)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_anything_behind_the_prefix(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.dcm")
        path.write_bytes(bytes(128) + b"DICM" + content)
        with pytest.raises(SeriesError):
            read_series([path])
