"""Totals alone: Agatston scores by series or patient, from CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calcium.errors import AnnotationError


@dataclass(frozen=True, slots=True)
class Totals:
    """Agatston scores that people gave a scan.

    Parameters
    ----------
    agatston
        Total, at least 0.
    by_vessel
        Of single arteries by their names, where they are known.
    """

    agatston: float
    by_vessel: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, total: object, parts: Mapping[str, object], where: str) -> Totals:
        """Return checked totals.

        Raises
        ------
        AnnotationError
            A score is no number of at least 0; names `where`.
        """
        return cls(_score(total, where), {name: _score(value, where) for name, value in parts.items()})


def _score(value: object, where: str) -> float:
    try:
        score = float(str(value).strip())
    except ValueError:
        score = math.nan
    if not math.isfinite(score) or score < 0:
        raise AnnotationError(f"{where}: a score must be a number of at least 0")
    return score


KEYS = ("seriesinstanceuid", "series_instance_uid", "patientid", "patient_id")
SCORES = ("agatston", "score", "total", "cac", "agatston_score")


def read_csv(path: Path) -> dict[str, Totals]:
    """Read scores by series or by patient.

    Parameters
    ----------
    path
        CSV with a head line: ``SeriesInstanceUID`` or ``PatientID``, and ``score`` (or ``agatston``,
        ``total``); comma, semicolon or tab, UTF-8.

    Returns
    -------
    dict
        Totals by SeriesInstanceUID, or by PatientID where there is no series column.

    Raises
    ------
    AnnotationError
        Other columns; an empty key; a score that is no number of at least 0; two scores of one scan.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        dialect = csv.Sniffer().sniff(content.split("\n", maxsplit=1)[0], delimiters=",;\t")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path.name} is not readable as UTF-8 text") from error
    except csv.Error as error:
        raise AnnotationError(f"{path.name} has no head line with two columns") from error
    reader = csv.DictReader(content.splitlines(), dialect=dialect)
    heads = {head.strip().lower().replace(" ", ""): head for head in reader.fieldnames or () if head}
    key = next((heads[name] for name in KEYS if name in heads), None)
    score = next((heads[name] for name in SCORES if name in heads), None)
    if key is None or score is None:
        raise AnnotationError(f"{path.name} has no columns SeriesInstanceUID (or PatientID) and score")
    found: dict[str, Totals] = {}
    for number, line in enumerate(reader, start=2):
        name, where = (line[key] or "").strip(), f"{path.name}, line {number}"
        if not name:
            raise AnnotationError(f"{where}: no SeriesInstanceUID or PatientID")
        total = Totals.of(line[score], {}, where)
        if found.setdefault(name, total) != total:
            raise AnnotationError(f"{where}: another score of the same scan")
    return found
