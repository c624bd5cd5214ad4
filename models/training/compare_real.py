"""Predicted scores and heart boxes of real series beside what a person read from them.

References are a plausible range rather than a truth: low counts the sure lesions, high all. A score is right
when it lies within the range or in the reference's group. Series without coronary calcium must score below 10.
Heart boxes are judged by the convention of their reference: boxes by eye end below the bifurcation of the
pulmonary trunk, masks above it, where the node's rise of the upper face reaches (docs/decisions/0051).
``python -m models.training.compare_real FOLDER [--weights SET]`` prints the tables as Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from SimpleITK import GetArrayFromImage, Image, ReadImage

from calcium.errors import AgatstonError
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.risk import RiskGroup
from calcium.series import read_series
from calcium.volume import CTVolume
from models.results import ScoringResult

Score = Callable[[CTVolume], ScoringResult]
Locate = Callable[[CTVolume], BoxMm]

DRAWN_IOU, MASK_IOU = 0.7, 0.8
"""Least overlap with boxes drawn by eye, and with boxes of heart masks (the project's aim)."""
NO_CALCIUM_BELOW = 10.0
"""Highest score of a scan without coronary calcium, Agatston (the project's aim)."""
HEART = 1
"""Label of the heart in the masks of ``deepcac-lowres``."""


@dataclass(frozen=True, slots=True)
class SeriesComparison:
    """One series with a read score.

    Parameters
    ----------
    series
        Folder name.
    best, low, high
        Read total Agatston score and its range.
    predicted, volume_mm3
        Of the networks; None where scoring refused.
    iou
        Of the node's heart box, with its rise, with the one drawn by eye.
    refusal
        Why there is no score, or empty.
    """

    series: str
    best: float
    low: float
    high: float
    predicted: float | None
    volume_mm3: float | None
    iou: float | None
    refusal: str = ""

    @property
    def right(self) -> bool:
        """Whether the score is inside the range or in the right group; below 10 where there is no calcium.

        To one decimal, as the references are given.
        """
        if self.predicted is None:
            return False
        if self.high == 0:
            return self.predicted < NO_CALCIUM_BELOW
        inside = self.low <= round(self.predicted, 1) <= self.high
        return inside or RiskGroup.of(self.predicted) == RiskGroup.of(self.best)


@dataclass(frozen=True, slots=True)
class BoxComparison:
    """One heart box.

    Parameters
    ----------
    series
        Folder or file name.
    iou, wall_mm, centre_mm
        Overlap and distances of walls and centres, by the convention of the reference; None where refused.
    wanted_iou
        Least overlap.
    scored_iou
        Overlap of the box that the node scores, with its rise.
    refusal
        Why there is no box, or empty.
    """

    series: str
    iou: float | None
    wall_mm: float | None
    centre_mm: float | None
    wanted_iou: float
    scored_iou: float | None = None
    refusal: str = ""

    @property
    def right(self) -> bool:
        """Whether the overlap is large enough."""
        return self.iou is not None and self.iou >= self.wanted_iou


def compare_series(score: Score, folder: Path, names: Iterable[str] | None = None) -> list[SeriesComparison]:
    """Score the series of a folder that have a reference.

    Parameters
    ----------
    score
        Volume as acquired -> result; AgatstonErrors are recorded as refusals.
    folder
        One folder for each series with slices and ``reference/reference.json``.
    names
        Only these series.
    """
    found = []
    for series, reference in _references(folder):
        if names is not None and series not in names:
            continue
        low, best, high = (float(reference[key]) for key in ("low", "agatston", "high"))
        try:
            result = score(read_series((folder / series).glob("*.dcm")).volume)
        except AgatstonError as error:
            compared = SeriesComparison(series, best, low, high, None, None, None, refusal=str(error))
        else:
            iou = result.heart_box.iou(_drawn(reference["heart_box_mm"]))
            compared = SeriesComparison(series, best, low, high, result.agatston, result.volume_mm3, iou)
        found.append(compared)
    return found


def _references(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield folder name and reference of each series that has one."""
    for path in sorted(folder.glob("*/reference/reference.json")):
        yield path.parent.parent.name, json.loads(path.read_text(encoding="utf-8"))


def _drawn(corners: Sequence[Sequence[float]]) -> BoxMm:
    low, high = (tuple(map(float, corner)) for corner in corners)
    return BoxMm(low, high)  # type: ignore[arg-type]


def _box(series: str, found: BoxMm, scored: BoxMm, wanted: BoxMm, wanted_iou: float) -> BoxComparison:
    faces = np.array([found.low, found.high]) - [wanted.low, wanted.high]
    centre, wall = float(np.linalg.norm(faces.mean(axis=0))), float(np.abs(faces).mean())
    return BoxComparison(series, found.iou(wanted), wall, centre, wanted_iou, scored.iou(wanted))


def read_nrrd(path: Path, thickness_mm: float | None = None) -> CTVolume:
    """Read an NRRD file in HU with axes along LPS; slices are as thick as they are apart unless given.

    Raises
    ------
    ValueError
        Axes that are not along LPS.
    """
    image = ReadImage(str(path))
    if not np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-3):
        raise ValueError(f"{path.name}: axes are not along LPS")
    hu = np.rint(GetArrayFromImage(image)).astype(np.int16)
    return CTVolume(hu, _geometry(image), thickness_mm or float(image.GetSpacing()[2]))


def _geometry(image: Image) -> VolumeGeometry:
    (x0, y0, z0), (dx, dy, dz), (nx, ny, nz) = image.GetOrigin(), image.GetSpacing(), image.GetSize()
    return VolumeGeometry((x0, y0, z0), (dz, dy, dx), (nz, ny, nx))


def mask_box(path: Path, label: int = HEART) -> BoxMm:
    """Return the box of one label of an NRRD mask, LPS mm."""
    image = ReadImage(str(path))
    inside = GetArrayFromImage(image) == label
    geometry = _geometry(image)
    low, high = [], []
    for axis, spacing in enumerate(geometry.spacing_mm):
        other = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(inside.any(axis=other))
        origin = geometry.origin_mm[2 - axis]
        low.append(origin + (float(found[0]) - 0.5) * spacing)
        high.append(origin + (float(found[-1]) + 0.5) * spacing)
    return BoxMm((low[2], low[1], low[0]), (high[2], high[1], high[0]))


def compare_boxes(plain: Locate, scored: Locate, folder: Path) -> list[BoxComparison]:
    """Find the heart in all scans of a folder with a box by eye or a heart mask.

    Series with ``reference/reference.json``, ``contrast-lowres`` and ``deepcac-lowres``.

    Parameters
    ----------
    plain
        Volume as acquired -> heart box without the rise, which boxes by eye are compared with;
        AgatstonErrors are recorded as refusals.
    scored
        The same with the rise, as the node scores it, which masks are compared with.
    """
    tasks: list[tuple[str, Callable[[], CTVolume], BoxMm, bool]] = []
    for series, reference in _references(folder):
        read: Callable[[], CTVolume] = partial(_volume_of, folder / series)
        tasks.append((series, read, _drawn(reference["heart_box_mm"]), False))
    boxes = folder / "contrast-lowres" / "heart_boxes.json"
    if boxes.is_file():
        drawn = json.loads(boxes.read_text(encoding="utf-8"))
        for name in sorted(set(drawn) - {"note"}):
            read = partial(read_nrrd, boxes.parent / f"{name}.nrrd")
            tasks.append((f"contrast {name}", read, _drawn(drawn[name]), False))
    for mask in sorted((folder / "deepcac-lowres").glob("*_msk_*.nrrd")):
        read = partial(read_nrrd, mask.with_name(mask.name.replace("_msk_", "_img_")))
        tasks.append((f"deepcac {mask.name.split('_')[0]}", read, mask_box(mask), True))
    found = []
    for name, read, wanted, masked in tasks:
        wanted_iou = MASK_IOU if masked else DRAWN_IOU
        try:
            volume = read()
            risen = scored(volume)
            box = risen if masked else plain(volume)
            found.append(_box(name, box, risen, wanted, wanted_iou))
        except AgatstonError as error:
            found.append(BoxComparison(name, None, None, None, wanted_iou, refusal=str(error)))
    return found


def _volume_of(series: Path) -> CTVolume:
    return read_series(series.glob("*.dcm")).volume


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def scores_markdown(rows: Sequence[SeriesComparison]) -> str:
    """Return the table of scores."""
    lines = [
        "| series | read (low to high) | predicted | read group | predicted group | right | box IoU |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        read = f"{row.best:.1f} ({row.low:.0f} to {row.high:.0f})"
        group = RiskGroup.of(row.best).label
        if row.predicted is None or row.iou is None:
            lines.append(f"| {row.series} | {read} | refused: {row.refusal} | {group} | | **no** | |")
            continue
        found = RiskGroup.of(row.predicted).label
        lines.append(
            f"| {row.series} | {read} | {row.predicted:.1f} | {group} | {found} | {_yes(row.right)} "
            f"| {row.iou:.2f} |"
        )
    return "\n".join(lines)


def boxes_markdown(rows: Sequence[BoxComparison]) -> str:
    """Return the table of heart boxes."""
    lines = [
        "| scan | IoU | wanted | walls mm | centre mm | right | IoU as scored |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.iou is None or row.scored_iou is None:
            lines.append(f"| {row.series} | refused: {row.refusal} | {row.wanted_iou} | | | **no** | |")
            continue
        lines.append(
            f"| {row.series} | {row.iou:.2f} | {row.wanted_iou} | {row.wall_mm:.1f} | {row.centre_mm:.1f} "
            f"| {_yes(row.right)} | {row.scored_iou:.2f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; return 1 where a series is not right."""
    from calcium.resample import resample  # noqa: PLC0415 - torch only when run
    from models.device import Runner  # noqa: PLC0415
    from models.heart import LocalizerConfig, locate  # noqa: PLC0415
    from models.options import ScoringOptions  # noqa: PLC0415
    from models.scoring import Scorer  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m models.training.compare_real", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with one folder for each series")
    parser.add_argument("--weights", default="", help="folder or bundled name; the default set when absent")
    options = parser.parse_args(arguments)
    scorer = Scorer.load(ScoringOptions(weights=options.weights, device="cpu"))
    config, runner = LocalizerConfig.of(scorer.weights.localizer), Runner(ScoringOptions().torch_device, 16)
    scores = compare_series(scorer.score, options.folder)

    def located(rise_mm: float) -> Locate:
        how = replace(config, rise_mm=rise_mm)
        return lambda volume: locate(resample(volume), scorer.weights.networks, how, runner)

    boxes = compare_boxes(located(0.0), located(config.rise_mm), options.folder)
    print(scores_markdown(scores), boxes_markdown(boxes), sep="\n\n")  # noqa: T201 - its output
    return int(not all(row.right for row in scores + boxes))


if __name__ == "__main__":
    raise SystemExit(main())
