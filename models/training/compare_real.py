"""Predicted scores and heart boxes of real series beside what a person read from them.

References are a plausible range rather than a truth: low counts the sure lesions, high all. A score is right
when it lies within the range or in the reference's group. Series without coronary calcium must score below 10.
``python -m models.training.compare_real FOLDER [--weights SET]`` prints the tables as Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        Of the heart box with the one drawn by eye.
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
    """One heart box: overlap, distances of walls and centres (mm), and what it is compared with."""

    series: str
    iou: float | None
    wall_mm: float | None
    centre_mm: float | None
    wanted_iou: float
    refusal: str = ""

    @property
    def right(self) -> bool:
        """Whether the overlap is large enough."""
        return self.iou is not None and self.iou >= self.wanted_iou


def compare_series(
    score: Score, folder: Path, names: Iterable[str] | None = None
) -> list[tuple[SeriesComparison, BoxComparison]]:
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
    for path in sorted(folder.glob("*/reference/reference.json")):
        series = path.parent.parent.name
        if names is not None and series not in names:
            continue
        reference = json.loads(path.read_text(encoding="utf-8"))
        drawn = BoxMm(*(tuple(map(float, corner)) for corner in reference["heart_box_mm"]))  # type: ignore[arg-type]
        low, best, high = (float(reference[key]) for key in ("low", "agatston", "high"))
        volume = read_series((path.parent.parent).glob("*.dcm")).volume
        try:
            result = score(volume)
        except AgatstonError as error:
            compared = SeriesComparison(series, best, low, high, None, None, None, refusal=str(error))
            box = BoxComparison(series, None, None, None, DRAWN_IOU, refusal=str(error))
        else:
            iou = result.heart_box.iou(drawn)
            compared = SeriesComparison(series, best, low, high, result.agatston, result.volume_mm3, iou)
            box = _box(series, result.heart_box, drawn, DRAWN_IOU)
        found.append((compared, box))
    return found


def _box(series: str, found: BoxMm, wanted: BoxMm, wanted_iou: float) -> BoxComparison:
    faces = np.array([found.low, found.high]) - [wanted.low, wanted.high]
    centre = float(np.linalg.norm(faces.mean(axis=0)))
    return BoxComparison(series, found.iou(wanted), float(np.abs(faces).mean()), centre, wanted_iou)


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


def compare_boxes(locate: Locate, folder: Path) -> list[BoxComparison]:
    """Find the heart in the coarse scans of a folder: ``contrast-lowres`` and ``deepcac-lowres``.

    Parameters
    ----------
    locate
        Volume -> heart box; AgatstonErrors are recorded as refusals.
    """
    tasks: list[tuple[str, Path, BoxMm, float]] = []
    boxes = folder / "contrast-lowres" / "heart_boxes.json"
    if boxes.is_file():
        drawn = json.loads(boxes.read_text(encoding="utf-8"))
        for name in sorted(set(drawn) - {"note"}):
            box = BoxMm(*(tuple(map(float, corner)) for corner in drawn[name]))  # type: ignore[arg-type]
            tasks.append((f"contrast {name}", boxes.parent / f"{name}.nrrd", box, DRAWN_IOU))
    for mask in sorted((folder / "deepcac-lowres").glob("*_msk_*.nrrd")):
        image = mask.with_name(mask.name.replace("_msk_", "_img_"))
        tasks.append((f"deepcac {mask.name.split('_')[0]}", image, mask_box(mask), MASK_IOU))
    found = []
    for name, path, wanted, wanted_iou in tasks:
        try:
            found.append(_box(name, locate(read_nrrd(path)), wanted, wanted_iou))
        except AgatstonError as error:
            found.append(BoxComparison(name, None, None, None, wanted_iou, refusal=str(error)))
    return found


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
    lines = ["| scan | IoU | wanted | walls mm | centre mm | right |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        if row.iou is None:
            lines.append(f"| {row.series} | refused: {row.refusal} | {row.wanted_iou} | | | **no** |")
            continue
        lines.append(
            f"| {row.series} | {row.iou:.2f} | {row.wanted_iou} | {row.wall_mm:.1f} | {row.centre_mm:.1f} "
            f"| {_yes(row.right)} |"
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
    pairs = compare_series(scorer.score, options.folder)
    boxes = [box for _, box in pairs]
    boxes += compare_boxes(
        lambda volume: locate(resample(volume), scorer.weights.networks, config, runner), options.folder
    )
    scores = [row for row, _ in pairs]
    print(scores_markdown(scores), boxes_markdown(boxes), sep="\n\n")  # noqa: T201 - its output
    return int(not all(row.right for row in scores + boxes))


if __name__ == "__main__":
    raise SystemExit(main())
