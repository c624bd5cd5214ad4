"""Writes an evaluation as Markdown, CSV and pictures."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from calcium.risk import RISK_THRESHOLDS, RiskGroup
from models.training.evaluation import (
    EXPERIMENTS,
    KINDS,
    Agreement,
    ScanRecord,
    agreement,
    attention_shares,
    breakdown,
    interval_coverage,
    networks_of,
    stays_without_calcium,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.training.statistics import Estimate

mpl.use("Agg")  # no window on a server

DEFAULT = "default"


def _number(key: str, edges: Sequence[float], unit: str) -> Callable[[ScanRecord], str | None]:
    """Return a grouping of scans by bins of a number of their description."""

    def group(record: ScanRecord) -> str | None:
        value = record.description.get(key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        below = [edge for edge in edges if value >= edge]
        above = [edge for edge in edges if value < edge]
        low = f"{below[-1]:g}" if below else ""
        high = f"{above[0]:g}" if above else ""
        text = f"{low} to {high}" if low and high else (f"below {high}" if high else f"{low} and more")
        return f"{text} {unit}".strip()

    return group


def _word(key: str) -> Callable[[ScanRecord], str | None]:
    """Return a grouping of scans by a word, or yes and no, of their description."""

    def group(record: ScanRecord) -> str | None:
        value = record.description.get(key)
        if value is None:
            return None
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)

    return group


# Heading of a breakdown -> how it groups scans.
BREAKDOWNS: dict[str, Callable[[ScanRecord], str | None]] = {
    "Kernel": _word("kernel"),
    "Slice thickness": _number("thickness_mm", (1.5, 2.0, 2.5), "mm"),
    "Noise in the heart": _number("noise_hu", (20.0, 30.0, 40.0, 60.0), "HU"),
    "Motion of the coronaries": _number("motion_mm", (1.0, 3.0), "mm"),
    "Pixel size": _number("pixel_mm", (0.6, 0.75, 0.9), "mm"),
    "Calcium of the aortic wall": _word("aortic_calcium"),
    "Calcium of valves or annulus": _word("valve_calcium"),
    "Other calcium": _word("other_calcium"),
    "Metal": _word("metal"),
    "Small field of view": _word("small_field_of_view"),
    "Tube voltage": _word("kvp"),
    "Reference group": lambda record: RiskGroup.of(record.agatston).label,
}


def _estimate(value: Estimate | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value.value):
        return "-"
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _network_title(name: str) -> str:
    kernels, target = EXPERIMENTS.get(name, ("", ""))
    return f"{name} ({kernels} kernels, {target})" if kernels else name


def table_1(records: Sequence[ScanRecord]) -> str:
    """Return the paper's Table 1: ICC of Agatston and volume totals for each network."""
    names = list(dict.fromkeys(name for kind in KINDS for name in networks_of(records, kind)))
    rows = []
    for name in names:
        figures = [agreement(records, name, kind) for kind in KINDS]
        rows.append([_network_title(name), *(_estimate(figure.icc) if figure else "-" for figure in figures)])
    return _table(["Network", "Agatston ICC (95 %)", "Volume ICC (95 %)"], rows)


def table_2(records: Sequence[ScanRecord]) -> str:
    """Return the paper's Table 2: accuracy and linear kappa over the five groups for each network."""
    rows = []
    for name in networks_of(records, "agatston"):
        figure = agreement(records, name, "agatston")
        if figure is not None:
            rows.append([_network_title(name), _estimate(figure.accuracy), _estimate(figure.kappa)])
    return _table(["Network", "Accuracy (95 %)", "Linear kappa (95 %)"], rows)


def confusion_table(figure: Agreement) -> str:
    """Return the confusion matrix: rows are reference groups."""
    assert figure.confusion is not None
    labels = [group.label for group in RiskGroup]
    rows = [
        [label, *(str(count) for count in row)] for label, row in zip(labels, figure.confusion, strict=True)
    ]
    return _table(["reference \\ predicted", *labels], rows)


def markdown(records: Sequence[ScanRecord], title: str, network: str = DEFAULT) -> str:
    """Return the whole evaluation as Markdown.

    Parameters
    ----------
    records
        At least two.
    title
        Says what the scans are, e.g. ``300 simulated scans, shifted``.
    network
        The network whose details are shown.
    """
    parts = [f"# Evaluation: {title}", f"{len(records)} scans."]
    parts += ["## Table 1: ICC(A,1) of the totals", table_1(records)]
    parts += ["## Table 2: five risk groups", table_2(records)]
    figure = agreement(records, network, "agatston")
    if figure is not None:
        limits = figure.bland_altman
        difference = f"mean {limits.bias:.1f}, 95 % limits of agreement {limits.low:.1f} to {limits.high:.1f}"
        kept = _estimate(stays_without_calcium(records, network))
        parts += [
            f"## Network `{network}`",
            f"Predicted minus reference total: {difference}.",
            confusion_table(figure),
            f"Scans with other but without coronary calcium that stay in the very low group: {kept}.",
        ]
        if any(record.interval is not None for record in records):
            parts.append(f"Reference inside the stated interval: {_estimate(interval_coverage(records))}.")
        near, other, count = attention_shares(records)
        if count:
            parts.append(
                f"Attention over {count} scans with coronary calcium: {near:.3f} of the response lies within "
                f"5 mm of coronary plaques, {other:.3f} on aortic and valve calcium."
            )
        for heading, group_of in BREAKDOWNS.items():
            groups = breakdown(records, network, group_of)
            if len(groups) > 1:
                rows = [
                    [
                        name,
                        str(part.scans),
                        _estimate(part.icc),
                        _estimate(part.accuracy),
                        _estimate(part.kappa),
                    ]
                    for name, part in groups.items()
                ]
                parts += [f"### {heading}", _table(["Group", "Scans", "ICC", "Accuracy", "Kappa"], rows)]
    return "\n\n".join(parts) + "\n"


def write_csv(records: Sequence[ScanRecord], path: Path) -> None:
    """Write one line for each scan."""
    names = {kind: networks_of(records, kind) for kind in KINDS}
    keys = sorted({key for record in records for key in record.description})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = [
            "name",
            "origin",
            "agatston",
            "volume_mm3",
            "low",
            "high",
            "attention_coronary",
            "attention_other",
        ]
        writer.writerow(header + [f"{kind}:{name}" for kind in KINDS for name in names[kind]] + keys)
        for record in records:
            predicted = [record.predicted(kind).get(name, "") for kind in KINDS for name in names[kind]]
            writer.writerow(
                [
                    record.name,
                    record.origin,
                    record.agatston,
                    record.volume_mm3,
                    *(record.interval or ("", "")),
                    *(record.attention or ("", "")),
                    *predicted,
                    *(record.description.get(key, "") for key in keys),
                ]
            )


def plot(records: Sequence[ScanRecord], path: Path, title: str, network: str = DEFAULT) -> None:
    """Draw predicted against reference totals, Bland-Altman and the confusion matrix side by side."""
    figure = agreement(records, network, "agatston")
    if figure is None or figure.confusion is None:
        return
    scored = [record for record in records if network in record.predicted_agatston]
    reference = np.array([record.agatston for record in scored])
    predicted = np.array([record.predicted_agatston[network] for record in scored])
    canvas, (scatter, altman, matrix) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    canvas.suptitle(f"{title}: network {network}")
    top = max(reference.max(), predicted.max(), 500) * 1.3
    scatter.plot([0, top], [0, top], color="0.7", linewidth=1)
    scatter.scatter(reference, predicted, s=12, alpha=0.6)
    for threshold in RISK_THRESHOLDS:
        scatter.axvline(threshold, color="0.9", linewidth=0.8)
        scatter.axhline(threshold, color="0.9", linewidth=0.8)
    scatter.set(xscale="symlog", yscale="symlog", xlim=(-0.3, top), ylim=(-0.3, top))
    scatter.set(xlabel="Reference Agatston score", ylabel="Predicted Agatston score")
    altman.scatter((reference + predicted) / 2, predicted - reference, s=12, alpha=0.6)
    limits = figure.bland_altman
    for value, style in ((limits.bias, "-"), (limits.low, "--"), (limits.high, "--")):
        altman.axhline(value, color="tab:red", linewidth=1, linestyle=style)
    altman.set(xscale="symlog", xlabel="Mean of both", ylabel="Predicted minus reference")
    share = figure.confusion / np.maximum(figure.confusion.sum(axis=1, keepdims=True), 1)
    matrix.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(figure.confusion):
        matrix.text(
            column, row, str(count), ha="center", va="center", color="w" if share[row, column] > 0.5 else "k"
        )
    labels = [group.label.replace(" ", "\n") for group in RiskGroup]
    matrix.set_xticks(range(len(labels)), labels)
    matrix.set_yticks(range(len(labels)), labels)
    matrix.set(xlabel="Predicted group", ylabel="Reference group")
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def write(records: Sequence[ScanRecord], folder: Path, title: str, network: str = DEFAULT) -> Path:
    """Write ``evaluation.md``, ``scans.csv`` and ``agreement.png`` and return the Markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(records, folder / "scans.csv")
    plot(records, folder / "agreement.png", title, network)
    path = folder / "evaluation.md"
    path.write_text(markdown(records, title, network), encoding="utf-8")
    return path
