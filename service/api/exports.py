"""Results as CSV, for spreadsheets."""

from __future__ import annotations

import csv as csv_module
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.api.schemas import ResultOut

COLUMNS = (
    "job_id", "study_instance_uid", "series_instance_uid", "status", "reason_code", "reason", "agatston",
    "agatston_low", "agatston_high", "volume_mm3", "risk_group", "warnings", "weights_name", "weights_version",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text cell that begins so


def csv(results: Iterable[ResultOut], *, header: bool = True) -> str:
    """Return rows of CSV (RFC 4180); a job without a score has empty numbers and a reason."""
    buffer = io.StringIO()
    writer = csv_module.writer(buffer, lineterminator="\r\n")
    if header:
        writer.writerow(COLUMNS)
    for one in results:
        row = one.model_dump(include=set(COLUMNS))
        row["warnings"] = ";".join(warning.get("code", "") for warning in one.warnings)
        row["weights_name"] = (one.weights or {}).get("name")
        row["weights_version"] = (one.weights or {}).get("version")
        writer.writerow([_cell(row.get(column)) for column in COLUMNS])
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULA):
        return "'" + value
    return value
