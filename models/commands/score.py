"""`agatston score`: scores series on disk, without a node, network or database."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calcium.dicom_files import is_dicom
from calcium.eligibility import EligibilityRules
from calcium.errors import SettingsError, TransientError
from calcium.series import group_by_series
from models.options import DEVICES, ScoringOptions
from models.pipeline import Outcome, score_files
from models.scoring import Scorer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from models.results import ScoringResult

logger = logging.getLogger(__name__)

RESEARCH_USE = "research use, not for diagnosis"
NO_SCORE: dict[str, Any] = {
    "agatston": None, "volume_mm3": None, "risk_group": None, "heart_box_mm": None, "slice_scores": None,
    "agatston_interval": None, "interval_coverage": None, "group_probabilities": None,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM files, or folders of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each series")
    parser.add_argument("--weights", help="a folder or a bundled set; default: AGATSTON_WEIGHTS")
    parser.add_argument("--device", choices=DEVICES, help="default: AGATSTON_DEVICE, else auto")
    parser.add_argument("--threads", type=int, help="default: AGATSTON_THREADS, else torch's choice")
    parser.add_argument(
        "--max-slice-thickness", type=float, metavar="MM", help="up to 5.0; default: 3.0, thicker is refused"
    )


def run(args: argparse.Namespace) -> int:
    """Score every series; return 0 when all were handled, 1 when one failed."""
    options = _options(args)
    scorer = Scorer.load(replace(options, heat_map=False))
    failed = handled = 0
    for outcome, seconds in _outcomes(args.paths, scorer):
        failed += outcome.status == "failed"
        handled += 1
        line = as_json(outcome, seconds, scorer)
        print(json.dumps(line, allow_nan=False) if args.json else in_words(line), flush=True)
    if not handled:
        print("no DICOM files found", file=sys.stderr)
    return 1 if failed or not handled else 0


def _options(args: argparse.Namespace) -> ScoringOptions:
    options = ScoringOptions.read()
    given = {
        name: value for name in ("weights", "device", "threads") if (value := getattr(args, name)) is not None
    }
    if args.max_slice_thickness is not None:
        given["rules"] = EligibilityRules(args.max_slice_thickness, options.rules.min_slices)
    return replace(options, **given)


def _outcomes(paths: list[Path], scorer: Scorer) -> Iterator[tuple[Outcome, float]]:
    """Yield the outcome of every series, and of every given file that is none."""
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise SettingsError(f"no such file or folder: {', '.join(map(str, missing))}")
    groups = group_by_series(paths)
    named = [path for path in paths if path.is_file() and not is_dicom(path)]
    for path in dict.fromkeys((*named, *groups.unreadable)):
        text = f"{path.name} is not a readable DICOM file"
        yield Outcome(None, "failed", "unreadable_instance", text), 0.0
    for uid, files in groups.items():
        started = time.perf_counter()
        try:
            outcome = score_files(files, scorer)
        except TransientError as error:
            outcome = Outcome(uid, "failed", error.code, str(error))
        except Exception as error:
            # Its text may hold a value of the header: only its kind is told.
            logger.debug("series %s", uid, exc_info=True)
            outcome = Outcome(uid, "failed", "internal", f"unexpected {type(error).__name__}")
        yield outcome, time.perf_counter() - started


def as_json(outcome: Outcome, seconds: float, scorer: Scorer) -> dict[str, Any]:
    """Return one series as the line that ``--json`` prints; unknown values are null, never 0."""
    identity = scorer.weights.identity
    line: dict[str, Any] = {
        "series_instance_uid": outcome.series_instance_uid,
        "status": outcome.status,
        "reason_code": outcome.reason_code,
        "reason": outcome.reason,
    }
    line |= _scores(outcome.result) if outcome.result is not None else NO_SCORE
    cautions = outcome.result.cautions if outcome.result is not None else ()
    return line | {
        "warnings": [f"{caution.code}: {caution.text}" for caution in cautions],
        "seconds": round(seconds, 3),
        "stage_seconds": {stage: round(value, 3) for stage, value in outcome.seconds.items()},
        "weights": {
            "name": identity.name,
            "version": identity.version,
            "sha256": identity.sha256,
            "training_data": identity.training_data,
        },
    }


def _scores(result: ScoringResult) -> dict[str, Any]:
    interval, shares = result.agatston_interval, result.group_probabilities
    return {
        "agatston": _down(result.agatston, 2),
        "volume_mm3": _down(result.volume_mm3, 2),
        "risk_group": result.risk_group.label,
        "heart_box_mm": [
            [round(value, 1) for value in corner] for corner in (result.heart_box.low, result.heart_box.high)
        ],
        "slice_scores": [
            {
                "z_mm": round(one.z_mm, 3),
                "agatston": round(one.agatston, 3),
                "volume_mm3": round(one.volume_mm3, 3),
            }
            for one in result.slice_scores
        ],
        "agatston_interval": [round(value, 1) for value in interval] if interval else None,
        "interval_coverage": result.interval_coverage if interval else None,
        "group_probabilities": [round(value, 4) for value in shares] if shares else None,
    }


def _down(value: float, digits: int) -> float:
    """Return a score rounded down, so that what is printed lies in the group that is printed."""
    scale = 10.0**digits
    return math.floor(value * scale) / scale


def in_words(line: dict[str, Any]) -> str:
    """Return a line of ``--json`` for people."""
    name = line["series_instance_uid"] or "unreadable"
    if line["status"] != "scored":
        return f"{name}\n  {line['status'].replace('_', ' ')}: {line['reason']}"
    text = f"{name}\n  predicted Agatston score {_down(line['agatston'], 1):.1f} ({line['risk_group']})"
    if line["agatston_interval"]:
        low, high = line["agatston_interval"]
        text += f", {line['interval_coverage']:.0%} interval {low:.0f} to {high:.0f}"
    text += f"\n  predicted volume score {line['volume_mm3']:.0f} mm3; {line['seconds']:.1f} s"
    text += "".join(f"\n  warning: {warning}" for warning in line["warnings"])
    weights = line["weights"]
    text += f"\n  weights {weights['name']} {weights['version']} (trained on {weights['training_data']})"
    return f"{text}\n  {RESEARCH_USE}"
