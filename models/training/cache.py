"""Training scans on disk: resampled heart crops with labels, and the whole scan on the localiser's coarse grid.

Making a scan costs seconds, reading its crop milliseconds. A cache is a folder with one uncompressed ``.npz``
for each scan, so that its HU can stay on disk until they are drawn (`iterate`), and ``index.jsonl``, one line
a scan: name, patient, origin, description, reference total. It can be filled in several stretches: what is
there is not made again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import zipfile
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from calcium.geometry import BoxMm, VolumeGeometry, VoxelBox
from models.training.processes import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from calcium.volume import CTVolume

logger = logging.getLogger(__name__)

INDEX = "index.jsonl"
# Kept around the heart box, mm (slice, row, column): room for a box that is jittered in training, or found
# too large by the localiser.
MARGIN_MM = (22.0, 26.0, 26.0)
LOCAL_HEADER_SIZES = 26  # bytes before the sizes of name and extra field in a zip's local header


@dataclass(frozen=True, eq=False)
class CachedCase:
    """What training and evaluation need of one scan.

    Parameters
    ----------
    name
        Unique in its cache.
    patient
        Cases of one patient never stand on two sides of a split.
    origin
        ``simulated`` or ``real anatomy``.
    geometry
        Grid of the crop, LPS mm: slices of 3.0 mm every 1.5 mm.
    hu
        int16, (slice, row, column), the crop.
    labels
        uint8, same shape: 1 LAD, 2 LCX, 3 RCA, 4 aorta, 5 valve or annulus, 6 other, 7 ignore, 8 metal.
    heart_box
        LPS mm; the reference.
    agatston, volume_mm3
        Reference totals of the whole scan.
    slice_agatston, slice_volume_mm3
        Reference of each slice of the crop, float32, (slice,).
    coarse
        int16, (slice, row, column), the whole scan on the localiser's grid, or an empty array.
    coarse_geometry
        Of `coarse`, or None.
    description
        What breakdowns need: kernel, thickness, noise, distractors, seed.
    """

    name: str
    patient: str
    origin: str
    geometry: VolumeGeometry
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    heart_box: BoxMm
    agatston: float
    volume_mm3: float
    slice_agatston: NDArray[np.float32]
    slice_volume_mm3: NDArray[np.float32]
    coarse: NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int16))
    coarse_geometry: VolumeGeometry | None = None
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def box(self) -> VoxelBox:
        """The reference heart box in voxels of the crop."""
        return VoxelBox.covering(self.heart_box, self.geometry)

    def raised_box(self, rise_mm: float) -> BoxMm:
        """Return the heart box with its upper face where the localiser puts it (LocalizerConfig.rise_mm)."""
        low, (x, y, z) = self.heart_box.low, self.heart_box.high
        return BoxMm(low, (x, y, z + rise_mm))


def crop(volume: CTVolume, box: BoxMm) -> tuple[VoxelBox, VolumeGeometry]:
    """Return the voxels of `volume` within MARGIN_MM of `box`, and their grid."""
    margin_xyz = MARGIN_MM[::-1]
    wide = BoxMm(
        tuple(a - m for a, m in zip(box.low, margin_xyz, strict=True)),  # type: ignore[arg-type]
        tuple(b + m for b, m in zip(box.high, margin_xyz, strict=True)),  # type: ignore[arg-type]
    )
    voxels = VoxelBox.covering(wide, volume.geometry)
    return voxels, VolumeGeometry(
        volume.geometry.to_mm(*voxels.start), volume.geometry.spacing_mm, voxels.shape
    )


def _geometry_json(geometry: VolumeGeometry | None) -> list[Any] | None:
    return None if geometry is None else [geometry.origin_mm, geometry.spacing_mm, geometry.shape]


def _geometry(values: list[Any] | None) -> VolumeGeometry | None:
    return None if values is None else VolumeGeometry(*(tuple(value) for value in values))


def save(case: CachedCase, folder: Path) -> None:
    """Write a case; a file is whole or absent."""
    facts = {
        "name": case.name,
        "patient": case.patient,
        "origin": case.origin,
        "geometry": _geometry_json(case.geometry),
        "coarse_geometry": _geometry_json(case.coarse_geometry),
        "heart_box": [case.heart_box.low, case.heart_box.high],
        "agatston": case.agatston,
        "volume_mm3": case.volume_mm3,
        "description": case.description,
    }
    partial = folder / f".{case.name}.{os.getpid()}.partial.npz"
    np.savez(
        partial,
        hu=case.hu,
        labels=case.labels,
        coarse=case.coarse,
        slice_agatston=case.slice_agatston,
        slice_volume_mm3=case.slice_volume_mm3,
        facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
    )
    partial.replace(folder / f"{case.name}.npz")


def _mapped(path: Path, name: str) -> NDArray[Any]:
    """Return an array of an uncompressed ``.npz``, read-only and read from disk where it is looked at."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member, path.open("rb") as file:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{path}: compressed, cannot be mapped")
        file.seek(entry.header_offset + LOCAL_HEADER_SIZES)
        sizes = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
        start = entry.header_offset + LOCAL_HEADER_SIZES + 4 + sizes + member.tell()
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def load(path: Path, *, mapped: bool = False) -> CachedCase:
    """Read one case.

    Parameters
    ----------
    path
        What `save` wrote.
    mapped
        Leave the HU on disk until they are looked at, so that many scans need less memory.
    """
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(file["facts"].tobytes())
        geometry = _geometry(facts["geometry"])
        assert geometry is not None
        return CachedCase(
            name=facts["name"],
            patient=facts["patient"],
            origin=facts["origin"],
            geometry=geometry,
            hu=_mapped(path, "hu") if mapped else file["hu"],
            labels=file["labels"],
            heart_box=BoxMm(*(tuple(corner) for corner in facts["heart_box"])),
            agatston=facts["agatston"],
            volume_mm3=facts["volume_mm3"],
            slice_agatston=file["slice_agatston"],
            slice_volume_mm3=file["slice_volume_mm3"],
            coarse=file["coarse"],
            coarse_geometry=_geometry(facts["coarse_geometry"]),
            description=facts["description"],
        )


def load_all(folder: Path, limit: int | None = None) -> list[CachedCase]:
    """Read the cases of a cache in the order of their names."""
    return [load(path) for path in sorted(folder.glob("[!.]*.npz"))[:limit]]


def iterate(folder: Path) -> Iterator[CachedCase]:
    """Read the cases of a cache one by one, their HU mapped."""
    for path in sorted(folder.glob("[!.]*.npz")):
        yield load(path, mapped=True)


def _work(maker: Callable[[Any], CachedCase | None], argument: Any, folder: Path) -> dict[str, Any] | None:
    started = time.monotonic()
    case = maker(argument)
    if case is None:
        return None
    save(case, folder)
    return {
        "name": case.name,
        "patient": case.patient,
        "origin": case.origin,
        "agatston": round(case.agatston, 2),
        "shape": case.hu.shape,
        "seconds": round(time.monotonic() - started, 2),
        **case.description,
    }


def fill(
    folder: Path,
    maker: Callable[[Any], CachedCase | None],
    tasks: Sequence[tuple[str, Any]],
    *,
    processes: int = 2,
    seconds: float = math.inf,
    progress: bool = True,
) -> int:
    """Make the missing cases of a cache, in parallel, and return how many are there.

    A scan whose making fails is logged and left out.

    Parameters
    ----------
    folder
        The cache.
    maker
        Argument -> case, or None for a scan that is of no use; a module-level function.
    tasks
        (name, argument) of each case.
    processes
        Of makers.
    seconds
        Start no further case after so long; the next call makes the rest.
    progress
        Show a bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(name, argument) for name, argument in tasks if not (folder / f"{name}.npz").exists()]
    present = len(tasks) - len(missing)
    started = time.monotonic()
    waiting = iter(missing)
    with (
        pool(processes, tasks_each=100) as makers,
        (folder / INDEX).open("a", encoding="utf-8") as index,
        tqdm(total=len(tasks), initial=present, desc=folder.name, disable=not progress, mininterval=5) as bar,
    ):
        running = {makers.submit(_work, maker, argument, folder) for _, argument in islice(waiting, processes)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                bar.update()
                error = future.exception()
                if error is not None:  # one scan must not end hours of work
                    logger.error("%s: a scan could not be made: %r", folder.name, error)
                    continue
                line = future.result()
                if line is not None:
                    present += 1
                    index.write(json.dumps(line, default=str) + "\n")
                    index.flush()
            if time.monotonic() - started < seconds:
                running |= {
                    makers.submit(_work, maker, argument, folder) for _, argument in islice(waiting, len(ended))
                }
    return present
