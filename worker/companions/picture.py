"""The summary page as pixels: what a radiologist sees at a glance.

::

    total, interval, volume        five-group scale
    three axial slices that contribute most, with heart box and heat map
    legend                                           what was scored
    coronal overview | slice-score profile | cautions
    AI estimate: research use ...            software and weights

Drawn so that the smallest text is still read when a viewer shows the page at half its size.
"""

from __future__ import annotations

import io
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from calcium.geometry import BoxMm, VoxelBox
from calcium.risk import RISK_THRESHOLDS, RiskGroup
from worker.report.content import scores, weights_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from calcium.geometry import VolumeGeometry
    from calcium.series import CTSeries
    from models.results import Caution, ScoringResult, SliceScore
    from worker.identity import Device

SIZE = 1024  # pixels a side
DPI = 100
WINDOW_HU = (-160.0, 340.0)  # soft tissue, with calcium apart from blood
MARGIN_MM = 15.0  # around the heart box in the axial pictures
SLAB_MM = 30.0  # thickness of the coronal overview, around the middle of the heart
SLICES = 3
PDF_TITLE = "Predicted coronary calcium score"
CAUTIONS_SHOWN = 4
FOOT_WIDTH = 88  # characters of small text in a line
SOURCE_WIDTH = 44  # the same beside the legend
KERNEL_LENGTH = 16
SCALE_BAR_MM = 50.0
SCALE_END = 2000.0  # Agatston score at the end of the scale's open group
EDGE = 0.08

# Points at 100 dpi; 14 points are 19 pixels, and 10 when shown at 512.
HUGE, LARGE, NORMAL, SMALL = 54, 21, 16, 14

LABELS = "ABC"
LABEL_GAP_MM = 22.0  # labels of slices in the coronal overview are kept so far apart

INK, DIM, PAPER, BOX, WARN = "#f2f5f7", "#aab6c0", "#0c1116", "#4cc9f0", "#ffb703"
GROUP_COLOURS = {
    RiskGroup.VERY_LOW: "#2a9d8f",
    RiskGroup.LOW: "#7cb518",
    RiskGroup.MODERATE: "#e9c46a",
    RiskGroup.MODERATELY_HIGH: "#f3722c",
    RiskGroup.HIGH: "#d62839",
}


def draw_summary(result: ScoringResult, device: Device, source: str = "") -> NDArray[np.uint8]:
    """Return the page, uint8, (row, column, RGB), `SIZE` pixels a side.

    The same result gives the same pixels with the same version of matplotlib.

    Parameters
    ----------
    result, device
        What is shown, and who made it.
    source
        Which series was scored, see `describe`.
    """
    with _style():
        canvas = FigureCanvasAgg(_page(result, device, source))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_pdf(result: ScoringResult, device: Device, source: str = "") -> bytes:
    """Return the same page as a PDF file, its text as text."""
    buffer = io.BytesIO()
    with _style():
        # No date and no version of the writer: the same result is the same file.
        FigureCanvasPdf(_page(result, device, source)).print_pdf(
            buffer, metadata={"Title": PDF_TITLE, "CreationDate": None, "Producer": None, "Creator": None}
        )
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own defaults: nothing of a user's style may reach a medical picture."""
    with mpl.rc_context(mpl.rcParamsDefault):
        mpl.rcParams["font.family"] = "DejaVu Sans"
        mpl.rcParams["pdf.fonttype"] = 42  # fonts whole enough to be searched and copied
        yield


def describe(series: CTSeries) -> str:
    """Return which of a study's series was scored: number, slices, kernel. Nothing here names the patient."""
    number = series.header.get("SeriesNumber")
    kernel = "".join(
        one for one in series.acquisition.kernel.split("\\")[0] if one.isascii() and one.isprintable()
    )
    parts = [
        f"series {number}" if isinstance(number, int) else "",
        f"{series.volume.geometry.shape[0]} slices of {series.volume.slice_thickness_mm:g} mm",
        kernel.strip()[:KERNEL_LENGTH],
    ]
    return ", ".join(part for part in parts if part)


def _page(result: ScoringResult, device: Device, source: str) -> Figure:
    figure = Figure(figsize=(SIZE / DPI, SIZE / DPI), dpi=DPI, facecolor=PAPER)
    shown = contributing(result)
    _numbers(figure, result)
    _scale(figure, result)
    _axial_row(figure, result, shown)
    figure.text(
        0.97, 0.465, textwrap.shorten(source, SOURCE_WIDTH), color=DIM, size=SMALL, va="top", ha="right"
    )
    _coronal(figure, result, shown)
    _profile(figure, result, shown)
    _cautions(figure, result.cautions)
    _foot(figure, result, device)
    return figure


def contributing(result: ScoringResult, count: int = SLICES) -> tuple[SliceScore, ...]:
    """Return the slices with the highest scores that do not overlap, from head to feet.

    Slices are 3.0 mm thick every 1.5 mm: a neighbour shows the same calcium again. Without calcium the slices
    at a quarter, half and three quarters of the heart box.
    """
    chosen: list[SliceScore] = []
    for candidate in sorted(result.slice_scores, key=lambda one: (-one.agatston, one.z_mm)):
        if not scores(candidate) or len(chosen) == count:
            break
        if all(abs(candidate.z_mm - one.z_mm) >= result.resampled.slice_thickness_mm for one in chosen):
            chosen.append(candidate)
    if not chosen and result.slice_scores:
        last = len(result.slice_scores) - 1
        chosen = [result.slice_scores[round(last * part)] for part in (0.75, 0.5, 0.25)]
    return tuple(sorted(set(chosen), key=lambda one: -one.z_mm))


def format_score(value: float) -> str:
    """Return a score as people write it: a decimal below 10, whole from there.

    Without separators: "1,697" is another number in half of Europe.
    """
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _numbers(figure: Figure, result: ScoringResult) -> None:
    figure.text(0.03, 0.965, "Predicted Agatston score", color=DIM, size=NORMAL, va="top")
    figure.text(0.03, 0.940, format_score(result.agatston), color=INK, size=HUGE, weight="bold", va="top")
    lines = []
    if result.agatston_interval is not None:
        low, high = result.agatston_interval
        lines.append(f"{result.interval_coverage:.0%} interval {format_score(low)} to {format_score(high)}")
    lines.append(f"volume score {format_score(result.volume_mm3)} mm\N{SUPERSCRIPT THREE}")
    figure.text(0.03, 0.842, "\n".join(lines), color=INK, size=SMALL, va="top", linespacing=1.4)


def _scale(figure: Figure, result: ScoringResult) -> None:
    """Draw the five groups, the one of the total, and how probable each is."""
    group = result.risk_group
    figure.text(0.42, 0.965, "Risk group", color=DIM, size=NORMAL, va="top")
    name = group.label[0].upper() + group.label[1:]
    figure.text(0.42, 0.940, name, color=GROUP_COLOURS[group], size=30, weight="bold", va="top")
    axes = figure.add_axes((0.42, 0.805, 0.55, 0.075))
    axes.set(xlim=(0, 5), ylim=(0, 1.6))
    axes.axis("off")
    for each, colour in GROUP_COLOURS.items():
        here = each is group
        axes.add_patch(Rectangle((each + 0.02, 0.75), 0.96, 0.55, color=colour, alpha=1.0 if here else 0.35))
        if here:
            place = each + _place(result.agatston, group)
            axes.plot(place, 1.5, marker="v", markersize=13, color=INK, clip_on=False)
        if result.group_probabilities is not None:
            axes.text(
                each + 0.5,
                1.02,
                f"{result.group_probabilities[each]:.0%}",
                size=SMALL,
                ha="center",
                va="center",
                color=PAPER if here else INK,
                weight="bold" if here else "normal",
            )
    for edge, threshold in enumerate(RISK_THRESHOLDS, start=1):
        axes.text(edge, 0.62, f"{threshold:.0f}", color=INK, size=SMALL, ha="center", va="top")
    axes.text(0.02, 0.62, "0", color=INK, size=SMALL, ha="left", va="top")
    if result.group_probabilities is not None:
        figure.text(0.97, 0.965, "%: how probable", color=DIM, size=SMALL, va="top", ha="right")


def _place(agatston: float, group: RiskGroup) -> float:
    """Return where in its group's bar a score stands, 0 to 1, never on an edge where two groups meet."""
    low, high = group.bounds
    part = (agatston - low) / (min(high, SCALE_END) - low)
    return min(max(part, EDGE), 1 - EDGE)


def _axial_row(figure: Figure, result: ScoringResult, shown: tuple[SliceScore, ...]) -> None:
    volume = result.resampled
    view = _axial_view(result.heart_box, volume.geometry)
    for place, score in enumerate(shown):
        axes = figure.add_axes((0.03 + place * 0.3175, 0.475, 0.305, 0.305))
        index = min(
            max(round(volume.geometry.to_index((0.0, 0.0, score.z_mm))[0]), 0), volume.geometry.shape[0] - 1
        )
        _, rows, columns = view.slices
        _image(
            axes, volume.hu[index, rows, columns], volume.geometry.spacing_mm[1], volume.geometry.spacing_mm[2]
        )
        _heat(axes, result, index, view)
        _axial_box(axes, result.heart_box, volume.geometry, view)
        # Not "slice 87": that would be read as its number.
        text = f"slice score {format_score(score.agatston)}" if scores(score) else "slice score 0"
        _label(axes, 0.03, 0.97, f"{LABELS[place]}  {text}", size=NORMAL, va="top", weight="bold")
        _label(axes, 0.97, 0.03, f"z {score.z_mm:.1f} mm", size=SMALL, ha="right")
        _label(axes, 0.03, 0.03, "R", size=SMALL)
        if place == 0:
            _scale_bar(axes, volume.geometry.spacing_mm[2])
    legend = "box: heart" + ("; colours: where the score comes from" if result.heat_map is not None else "")
    figure.text(0.03, 0.465, legend, color=DIM, size=SMALL, va="top")


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write on an image so that it is read on bone and on air."""
    outline = [withStroke(linewidth=3, foreground=PAPER)]
    axes.text(x, y, text, transform=axes.transAxes, color=INK, path_effects=outline, **style)


def _scale_bar(axes: Axes, column_mm: float) -> None:
    """Draw a length into an image: a Secondary Capture has no spacing that a viewer could measure with."""
    left, right = axes.get_xlim()
    start = left + 0.14 * (right - left)
    length = SCALE_BAR_MM / column_mm
    outline = [withStroke(linewidth=4, foreground=PAPER)]
    axes.plot(
        [start, start + length], [0.028, 0.028], transform=axes.get_xaxis_transform(),
        color=INK, linewidth=2, path_effects=outline, scalex=False, scaley=False,
    )  # fmt: skip
    _label(axes, 0.15, 0.045, f"{SCALE_BAR_MM / 10:g} cm", size=SMALL)


def _axial_view(box: BoxMm, geometry: VolumeGeometry) -> VoxelBox:
    """Return the square around the heart box that the axial pictures show, inside the image."""
    half = max(box.size_mm[:2]) / 2 + MARGIN_MM
    x, y = ((box.low[axis] + box.high[axis]) / 2 for axis in (0, 1))
    square = BoxMm((x - half, y - half, box.low[2]), (x + half, y + half, box.high[2]))
    return VoxelBox.covering(square, geometry)


def _image(axes: Axes, hu: NDArray[np.int16], row_mm: float, column_mm: float) -> None:
    axes.imshow(
        hu,
        cmap="gray",
        vmin=WINDOW_HU[0],
        vmax=WINDOW_HU[1],
        aspect=row_mm / column_mm,
        interpolation="bilinear",
    )
    axes.axis("off")


def _heat(axes: Axes, result: ScoringResult, index: int, view: VoxelBox) -> None:
    heat = result.heat_map
    if heat is None or not heat.box.start[0] <= index < heat.box.stop[0]:
        return
    highest = float(heat.response.max())
    if highest <= 0:
        return
    plane = heat.response[index - heat.box.start[0]] / highest
    coloured = mpl.colormaps["autumn"](plane)
    coloured[..., 3] = np.clip(plane * 2.0, 0.0, 0.75)  # nothing where nothing is, never hiding the image
    row, column = heat.box.start[1] - view.start[1], heat.box.start[2] - view.start[2]
    extent = (column - 0.5, column + plane.shape[1] - 0.5, row + plane.shape[0] - 0.5, row - 0.5)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(coloured, extent=extent, interpolation="nearest", aspect=axes.get_aspect())
    axes.set(xlim=limits[0], ylim=limits[1])


def _axial_box(axes: Axes, box: BoxMm, geometry: VolumeGeometry, view: VoxelBox) -> None:
    (_, row0, column0), (_, row1, column1) = geometry.to_index(box.low), geometry.to_index(box.high)
    corner = (column0 - view.start[2], row0 - view.start[1])
    axes.add_patch(Rectangle(corner, column1 - column0, row1 - row0, fill=False, edgecolor=BOX, linewidth=1.6))


def _z_limits(result: ScoringResult) -> tuple[float, float]:
    """Return z (mm) of the outer faces of the scan."""
    geometry = result.resampled.geometry
    return geometry.z_mm(-0.5), geometry.z_mm(geometry.shape[0] - 0.5)


def _coronal(figure: Figure, result: ScoringResult, shown: tuple[SliceScore, ...]) -> None:
    """Coronal maximum of a slab through the heart: calcium stands out, and where the scan ends is seen."""
    geometry, box = result.resampled.geometry, result.heart_box
    middle = geometry.to_index((0.0, (box.low[1] + box.high[1]) / 2, 0.0))[1]
    half = SLAB_MM / 2 / geometry.spacing_mm[1]
    first = min(max(round(middle - half), 0), geometry.shape[1] - 1)
    slab = result.resampled.hu[:, first : max(round(middle + half), first + 1), :].max(axis=1)
    left, right = geometry.to_mm(0, 0, -0.5)[0], geometry.to_mm(0, 0, geometry.shape[2] - 0.5)[0]
    low, high = _z_limits(result)
    axes = figure.add_axes((0.03, 0.115, 0.33, 0.315))
    axes.imshow(
        slab, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1] + 300, origin="lower",
        extent=(left, right, low, high), aspect="equal", interpolation="bilinear",
    )  # fmt: skip
    axes.add_patch(
        Rectangle(
            (box.low[0], box.low[2]), box.size_mm[0], box.size_mm[2], fill=False, edgecolor=BOX, linewidth=1.6
        )
    )
    above = high + LABEL_GAP_MM
    for place, score in enumerate(shown):  # from head to feet: a label that would touch the one above sinks
        axes.axhline(score.z_mm, color=WARN, linewidth=1.0, alpha=0.8)
        above = min(score.z_mm, above - LABEL_GAP_MM)
        outline = [withStroke(linewidth=3, foreground=PAPER)]
        axes.text(right - 2, above, LABELS[place], color=WARN, size=SMALL, ha="right", path_effects=outline)
    _label(axes, 0.03, 0.03, "R", size=SMALL)
    axes.axis("off")


def _profile(figure: Figure, result: ScoringResult, shown: tuple[SliceScore, ...]) -> None:
    axes = figure.add_axes((0.435, 0.16, 0.185, 0.245), facecolor=PAPER)
    heights = [score.z_mm for score in result.slice_scores]
    axes.barh(heights, [score.agatston for score in result.slice_scores], height=1.4, color=WARN)
    low, high = (outer(result.heart_box.low[2], result.heart_box.high[2], *heights) for outer in (min, max))
    axes.set_ylim(low, high)
    highest = max((score.agatston for score in result.slice_scores), default=0.0)
    edge = highest if highest > 0 else 1.0
    axes.set_xlim(0, edge * 1.3)
    gap = (high - low) * 0.09
    above = high + gap
    for place, score in enumerate(shown):
        above = min(score.z_mm, above - gap)
        axes.annotate(
            LABELS[place], (score.agatston, score.z_mm), (edge * 1.17, above),
            color=INK, size=SMALL, va="center", arrowprops={"arrowstyle": "-", "color": DIM, "linewidth": 0.8},
        )  # fmt: skip
    axes.set_title("slice scores", color=DIM, size=SMALL)
    axes.set_ylabel("z, mm", color=DIM, size=SMALL, labelpad=2)
    axes.tick_params(colors=DIM, labelsize=12)
    axes.locator_params(axis="x", nbins=3)
    axes.locator_params(axis="y", nbins=5)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(DIM)


def _cautions(figure: Figure, cautions: tuple[Caution, ...]) -> None:
    figure.text(0.65, 0.435, "Cautions", color=DIM, size=NORMAL, va="top")
    if not cautions:
        figure.text(0.65, 0.40, "none", color=INK, size=SMALL, va="top")
        return
    lines = []
    for caution in cautions[:CAUTIONS_SHOWN]:
        wrapped = textwrap.wrap(caution.text, width=31, max_lines=5, placeholder=" ...")
        lines += ["\N{BULLET} " + wrapped[0], *("   " + line for line in wrapped[1:])]
    if len(cautions) > CAUTIONS_SHOWN:
        lines.append(f"and {len(cautions) - CAUTIONS_SHOWN} more, see the report")
    figure.text(0.65, 0.40, "\n".join(lines[:13]), color=WARN, size=SMALL, va="top", linespacing=1.25)


def research_note(result: ScoringResult) -> str:
    """Return the line that no picture of ours goes without; short, so that it is never cut."""
    if result.weights.validated_by_site:
        return "AI estimate, not verified by a physician."
    return "AI estimate: research use, not for diagnosis."


def _foot(figure: Figure, result: ScoringResult, device: Device) -> None:
    figure.add_artist(Rectangle((0, 0), 1, 0.102, transform=figure.transFigure, color="#1d2730", zorder=-1))
    figure.text(0.03, 0.092, research_note(result), color=INK, size=NORMAL, va="top", weight="bold")
    weights = result.weights
    validated = "; validated by the site" if weights.validated_by_site else ""
    versions = (
        f"{device.model_name} {device.software_version}, weights {weights_version(weights)} "
        f"({weights.sha256[:8]})"
    )
    for y, line in ((0.057, f"Networks trained on {weights.training_data} data{validated}"), (0.03, versions)):
        figure.text(0.03, y, textwrap.shorten(line, FOOT_WIDTH), color=DIM, size=SMALL, va="top")
    window = f"window {WINDOW_HU[0]:.0f} to {WINDOW_HU[1]:.0f} HU"
    figure.text(0.97, 0.088, window, color=DIM, size=SMALL, va="top", ha="right")
