"""Code streams that cost more than they should, as fuzzing found them."""

from __future__ import annotations

import time

import lossless_jpeg
import numpy as np
import pytest
from dicom_series import pattern, series, write
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless, JPEGLSNearLossless

from calcium.codestream import ended
from calcium.errors import PixelDataError
from calcium.series import read_series

SECONDS = 2.0  # of CPU; it is a millisecond, and was more than 4 s
# 32 x 32 of 12 bits whose scan runs out of bits in a run of zeros, and ends without a marker.
ENDLESS = bytes.fromhex(
    "ffd8fff7000b0c0020002001011100ffda000801010002000008c222c95557ff7f86861c86458b2cb3918b18b4996932d259966b35a5"
    "ad2dcab6b76ed2ee5dbb76eddcbeddbbefbee73df7df7dfbeffbbeefbc42fbefbefbe227befbefbf21f7df7df7ce10df7df7dfef11bd"
    "ef7bbdc46f7bdedf25ef7b937e48e79e79d6747bdef7ba9adef7bd020200000040000000800000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000fd"
    "d6f7bdee0000000000c30c30c3"
)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLSNearLossless])
def test_a_stream_without_an_end_costs_nothing(syntax, tmp_path):
    datasets = series(pattern(3, 32, 32))
    for ds in datasets:
        ds.PixelData = encapsulate([ENDLESS])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
    paths = write(datasets, tmp_path)
    started = time.process_time()
    with pytest.raises(PixelDataError):
        read_series(paths)
    assert time.process_time() - started < SECONDS


def test_an_end_is_added_once():
    stream = b"\xff\xd8\xff\xf7"
    assert ended(stream) == stream + b"\xff\xd9"
    for whole in (stream + b"\xff\xd9", stream + b"\xff\xd9\0"):  # PS3.5 A.4: padded to an even length
        assert ended(whole) == whole


def test_our_own_encoder_of_jpeg_lossless_is_read(tmp_path):
    """The seeds of the fuzzing are sound."""
    hu = pattern(3, 32, 40)
    datasets = series(hu)
    for ds in datasets:
        lossless_jpeg.compress(ds)
    assert np.array_equal(read_series(write(datasets, tmp_path)).volume.hu, hu)
