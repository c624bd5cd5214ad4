"""The choice among reconstructions of one acquisition."""

from __future__ import annotations

import itertools

import pytest
from dicom_series import enhanced, pattern, series

from calcium.reconstructions import Reconstruction, choose

SLICES = 40


def candidate(uid, **elements):
    return Reconstruction.of(series(pattern(SLICES, 8, 8), SeriesInstanceUID=f"1.2.{uid}", **elements))


SOFT_3 = candidate(1, thickness=3.0)
SOFT_1 = candidate(2, thickness=1.0)
SHARP_1 = candidate(3, thickness=1.0, ConvolutionKernel="B70f")
MPR = candidate(4, thickness=1.0, ImageType=["DERIVED", "SECONDARY", "REFORMATTED"])
THICK = candidate(5, thickness=5.0)
SCOUT = candidate(6, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


def test_soft_thin_original_axial_wins_in_every_order():
    everything = [SOFT_3, SOFT_1, SHARP_1, MPR, THICK, SCOUT]
    for order in itertools.permutations(everything):
        assert set(choose(order).values()) == {"1.2.2"}


@pytest.mark.parametrize(
    ("better", "worse"),
    [(SOFT_1, SOFT_3), (SOFT_3, SHARP_1), (SHARP_1, MPR), (SOFT_3, THICK), (MPR, THICK), (SHARP_1, SCOUT)],
)
def test_pairs(better, worse):
    assert set(choose([worse, better]).values()) == {better.series_instance_uid}


def test_the_longer_series_wins_among_equals():
    short = Reconstruction.of(series(pattern(SLICES - 2, 8, 8), SeriesInstanceUID="1.2.0", thickness=1.0))
    assert choose([short, SOFT_1])["1.2.0"] == "1.2.2"


def test_another_acquisition_is_chosen_for_itself():
    expiration = candidate(9, thickness=3.0, AcquisitionNumber=2)
    assert choose([SOFT_1, expiration]) == {"1.2.2": "1.2.2", "1.2.9": "1.2.9"}


def test_no_eligible_reconstruction():
    assert choose([THICK, SCOUT]) == {"1.2.5": None, "1.2.6": None}
    assert choose([]) == {}
    assert THICK.refusal == "too_thick"


def test_enhanced():
    found = Reconstruction.of([enhanced(pattern(SLICES, 8, 8))])
    assert (found.slices, found.thickness_mm, found.sharp, found.refusal) == (SLICES, 2.0, False, None)


def test_a_series_without_headers():
    with pytest.raises(ValueError, match="headers"):
        Reconstruction.of([])


def test_times_part_acquisitions_that_share_a_number():
    first = candidate(1, AcquisitionTime="101500.5")
    again = candidate(2, AcquisitionTime="101501", ConvolutionKernel="B70f")
    expiration = candidate(3, AcquisitionTime="101600", ConvolutionKernel="B70f")
    assert choose([expiration, again, first]) == {"1.2.1": "1.2.1", "1.2.2": "1.2.1", "1.2.3": "1.2.3"}


def test_what_tells_too_little_is_a_scan_of_its_own():
    apart = candidate(1, AcquisitionNumber=None), candidate(2, AcquisitionNumber=None)
    assert choose(apart) == {"1.2.1": "1.2.1", "1.2.2": "1.2.2"}
    apart = candidate(1, FrameOfReferenceUID=None), candidate(2, FrameOfReferenceUID=None)
    assert choose(apart) == {"1.2.1": "1.2.1", "1.2.2": "1.2.2"}


def test_a_thickness_that_is_no_number_is_the_thickest():
    assert Reconstruction.of(series(pattern(SLICES, 8, 8), SliceThickness=None)).thickness_mm == float("inf")
