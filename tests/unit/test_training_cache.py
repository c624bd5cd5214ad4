"""The cache of training scans: whole files, resumed filling, the same case back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cached_cases import make

from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume
from models.training.cache import crop, fill, iterate, load, load_all, save


def test_a_case_comes_back_as_it_was(tmp_path: Path):
    case = make(3)
    assert case is not None
    save(case, tmp_path)
    back = load(tmp_path / "case-0003.npz")
    assert (back.hu == case.hu).all()
    assert (back.labels == case.labels).all()
    assert (back.slice_agatston == case.slice_agatston).all()
    assert back.geometry == case.geometry
    assert back.coarse_geometry == case.coarse_geometry
    assert back.heart_box == case.heart_box
    assert back.description == case.description
    assert back.box == case.box
    assert list(tmp_path.iterdir()) == [tmp_path / "case-0003.npz"]


def test_hu_stay_on_disk_until_they_are_looked_at(tmp_path: Path):
    case = make(3)
    assert case is not None
    save(case, tmp_path)
    (back,) = iterate(tmp_path)
    assert isinstance(back.hu, np.memmap)
    assert (back.hu == case.hu).all()
    assert not back.hu.flags.writeable
    assert (back.labels == case.labels).all()


def test_a_compressed_case_cannot_be_mapped(tmp_path: Path):
    case = make(3)
    assert case is not None
    save(case, tmp_path)
    path = tmp_path / "case-0003.npz"
    with np.load(path) as file:
        np.savez_compressed(path, **file)
    with pytest.raises(ValueError, match=r"case-0003.*compressed"):
        load(path, mapped=True)


def test_filling_goes_on_where_it_stopped_and_skips_useless_scans(tmp_path: Path):
    tasks = [(f"case-{seed:04d}", seed) for seed in (0, 1)] + [("none", -1)]
    assert fill(tmp_path, make, tasks[:1], processes=1, progress=False) == 1
    first = (tmp_path / "case-0000.npz").stat().st_mtime_ns
    assert fill(tmp_path, make, tasks, processes=2, progress=False) == 2
    assert (tmp_path / "case-0000.npz").stat().st_mtime_ns == first
    assert [case.name for case in load_all(tmp_path)] == ["case-0000", "case-0001"]
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == 2


def test_a_crop_keeps_a_margin_and_its_place():
    geometry = VolumeGeometry((-150.0, -150.0, 0.0), (1.5, 1.0, 1.0), (100, 300, 300))
    volume = CTVolume(np.zeros(geometry.shape, np.int16), geometry, 3.0)
    voxels, grid = crop(volume, BoxMm((-50, -60, 30), (70, 40, 120)))
    assert grid.origin_mm == (-76.0, -86.0, 9.0)
    assert grid.shape == voxels.shape == (89, 153, 173)
