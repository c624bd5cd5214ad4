"""Metal gets no credit: clips, wires and leads are not calcium."""

from __future__ import annotations

import numpy as np

from calcium.agatston import credit_map
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.heart_checks import METAL_HU
from calcium.volume import CTVolume
from models.estimators import credit_of
from models.preprocess import heart_crop


def test_a_component_that_reaches_metal_gets_no_credit_and_its_neighbour_keeps_it():
    hu = np.full((12, 64, 64), 40, np.int16)
    hu[4:7, 20:24, 20:24] = METAL_HU - 1  # dense calcium
    hu[4:7, 40:46, 40:46] = 400  # the blur around a clip ...
    hu[5, 42, 42] = METAL_HU  # ... and the clip
    volume = CTVolume(hu, VolumeGeometry((0, 0, 0), (1.5, 1.0, 1.0), hu.shape), 3.0)
    crop = heart_crop(volume, BoxMm((5, 5, 1), (60, 60, 15)))
    plain, credit = credit_map(crop.volume, crop.box), credit_of(crop)
    dense = crop.volume.hu == METAL_HU - 1
    assert plain[crop.volume.hu == 400].all()
    assert np.array_equal(credit[dense], plain[dense])
    assert credit[dense].all()
    assert not credit[~dense].any()
