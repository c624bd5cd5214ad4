"""Moments and days as people type them on a command line."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, date, datetime, time, timedelta

_SPAN = re.compile(r"(\d{1,5})\s*(min|h|d)")
_UNITS = {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def since(text: str, *, today: datetime | None = None) -> datetime:
    """Read ``yesterday``, ``today``, ``2h``, ``3d``, a date or an ISO 8601 moment; local time.

    Raises
    ------
    argparse.ArgumentTypeError
        It is none of these.
    """
    present = today or datetime.now().astimezone()
    span = _SPAN.fullmatch(text.strip().lower())
    if span is not None:
        return (present - int(span[1]) * _UNITS[span[2]]).astimezone(UTC)
    words = {"today": present.date(), "yesterday": present.date() - timedelta(days=1)}
    try:
        named = words.get(text.strip().lower())
        moment = datetime.combine(named, time()) if named is not None else datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo is not None else moment.astimezone()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no moment: write yesterday, today, 2h, 3d, 2026-11-25 or 2026-11-25T08:00"
        ) from None


def dates(text: str, *, today: date | None = None) -> str:
    """Read a range of study dates as DICOM matches it (PS3.4 section C.2.2.2.5): ``20261101-20261125``.

    ``yesterday`` and ``today`` are single days; since a day is ``2026-11-01-``; DICOM's own form is taken too.

    Raises
    ------
    argparse.ArgumentTypeError
        It is no day and no range of days.
    """
    present = today or datetime.now().astimezone().date()
    words = {"today": present, "yesterday": present - timedelta(days=1)}
    bare = text.strip().lower()
    if bare in words:
        return words[bare].isoformat().replace("-", "")
    parts = re.fullmatch(r"(\d{4}-?\d\d-?\d\d)?(-)?(\d{4}-?\d\d-?\d\d)?", bare)
    if parts is None or not (parts[1] or parts[3]) or (parts[1] and parts[3] and not parts[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day or range: write 2026-11-25, 20261101-20261125, yesterday"
        )
    try:
        days = [date.fromisoformat(part).isoformat() if part else "" for part in (parts[1], parts[3])]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} holds a day that does not exist") from None
    ends = [day.replace("-", "") for day in days]
    return "-".join(ends) if parts[2] else ends[0] or ends[1]
