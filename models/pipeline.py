"""From the files of one series to an outcome: the same for `agatston score` and for the worker."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from calcium.eligibility import EligibilityRules, cautions, screen
from calcium.errors import NotEligibleError, SeriesError
from calcium.series import CTSeries, read_headers, read_series
from models.results import Caution, ScoringResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.scoring import Scorer

Status = Literal["scored", "not_eligible", "failed"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one series.

    Parameters
    ----------
    series_instance_uid
        Or None where no header could be read.
    status
        ``scored``, ``not_eligible`` (readable, but gets no score) or ``failed`` (cannot be read).
    reason_code, reason
        Why there is no score, without patient data; None when scored.
    series
        The series, as far as it was read.
    result
        When scored.
    seconds
        Wall-clock seconds by stage.
    """

    series_instance_uid: str | None
    status: Status
    reason_code: str | None = None
    reason: str | None = None
    series: CTSeries | None = None
    result: ScoringResult | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def score_files(paths: Sequence[Path], scorer: Scorer, rules: EligibilityRules | None = None) -> Outcome:
    """Return the outcome of the files of one series.

    Parameters
    ----------
    paths
        All files of the series, in any order.
    scorer
        To use.
    rules
        The site's choice; the scorer's options when None.

    Raises
    ------
    TransientError
        Out of memory: worth another try.
    WeightsError
        The scorer's weights do not fit.
    """
    rules = rules or scorer.options.rules
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    uid, series = None, None

    def lap(stage: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[stage] = now - started
        started = now

    try:
        headers = read_headers(paths)
        uid = str(headers[0].get("SeriesInstanceUID", "")) or None if headers else None
        lap("headers")
        screen(headers, rules)
        series = read_series(paths)
        lap("read")
        result = scorer.score(series.volume)
    except NotEligibleError as reason:
        return Outcome(uid, "not_eligible", reason.code, reason.text, series, None, seconds)
    except SeriesError as error:
        return Outcome(uid, "failed", error.code, str(error), series, None, seconds)
    found = tuple(Caution(*finding) for finding in cautions(series, rules))
    result = replace(result, cautions=(*result.cautions, *found), seconds=seconds | result.seconds)
    return Outcome(uid, "scored", None, None, series, result, dict(result.seconds))
