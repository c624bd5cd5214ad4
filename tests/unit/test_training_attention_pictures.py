"""Pictures of attention: which cases and slices are shown, and that the response is laid over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.device import Runner
from models.training.attention_pictures import chosen, telling_slice, write_pictures
from models.training.cache import CachedCase
from models.training.evaluation import ScanRecord
from models.training.phantom import PhantomConfig, make_scan
from models.weightset import load_weights


def _record(agatston: float, **description: bool) -> ScanRecord:
    return ScanRecord("a", "a", "simulated", agatston, 0.0, description=description)


def test_cases_with_other_calcium_come_first_and_those_without_coronary_calcium_never():
    records = [_record(0, valve_calcium=True), _record(5), _record(7, aortic_calcium=True), _record(9)]
    paths = [Path(str(number)) for number in range(4)]
    assert [path.name for path in chosen(paths, records, 2)] == ["2", "1"]
    assert [path.name for path in chosen(paths, records, 9)] == ["2", "1", "3"]


def test_the_slice_shows_both_kinds_of_calcium_where_one_does():
    labels = np.zeros((4, 10, 10), np.uint8)
    labels[1, :5, :5] = 1
    assert telling_slice(labels) == 1
    labels[2, 0, 0], labels[2, 9, 9] = 2, 5
    assert telling_slice(labels) == 2
    labels[:] = 0
    labels[3, 1, 1] = 4
    assert telling_slice(labels) == 3


def test_the_response_is_in_the_picture(tmp_path):
    small = {"field_of_view": "cardiac", "in_plane": 160, "thickness_mm": 3.0, "crop_to_heart": 12.0}
    scan = make_scan(2, config=PhantomConfig(calcium="high", **small))
    none = np.zeros(len(scan.labels), np.float32)
    case = CachedCase(
        "a", "a", "simulated", scan.resampled.geometry, scan.resampled.hu, scan.labels, scan.heart_box,
        scan.agatston, scan.volume_mm3, none, none,
    )  # fmt: skip
    pictures = []
    for number, sets in enumerate(({}, {"default": load_weights("agatston")})):
        write_pictures([case], sets, Runner(), tmp_path / f"{number}.png")
        pictures.append(np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB")).astype(int))
    plain, with_heat = pictures
    assert with_heat.shape[1] == pytest.approx(2 * plain.shape[1], rel=0.05)
    right_half = with_heat[:, plain.shape[1] :]
    warm = right_half[..., 0] - right_half[..., 2] > 60  # red to yellow
    assert warm.any()
    assert warm.mean() < 0.05
