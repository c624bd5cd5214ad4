"""How the pages write and draw: times, sizes, groups, the slice-score profile and the scale of groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from calcium.risk import RISK_THRESHOLDS, RiskGroup

WIDTH, HEIGHT = 640, 180  # of the profile, user units
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 38
SCALE_TOP = 4000.0  # right end of the scale of groups; higher scores stand at the end
STATE_WORDS = {"not_eligible": "not eligible"}
EVENT_WORDS = {
    "open": "created",
    "claim": "taken by a worker",
    "hand_back": "handed back",
    "lease_lost": "worker lost",
    "retry": "will be tried again",
    "score": "scored",
    "refuse": "not eligible",
    "fail": "failed",
    "quarantine": "quarantined",
    "cancel": "cancelled",
    "supersede": "superseded",
    "rerun": "to be run again",
    "expedite": "moved to the urgent lane",
    "deliver_again": "to be delivered again",
}


def ago(moment: datetime | None) -> str:
    """Say how long ago, in words that change only once a minute."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 0:
        return "in " + duration(-seconds)
    return "just now" if seconds < 60 else duration(seconds) + " ago"


def duration(seconds: float | None) -> str:
    """Say a number of seconds in its largest unit."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def moment(value: datetime | None) -> str:
    """Write a moment in UTC to the second."""
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(value: float) -> str:
    """Write bytes in decimal units, as disks are sold."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def score(value: float) -> str:
    """Write an Agatston score: whole numbers, but one decimal below 10."""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def short(uid: str) -> str:
    """Cut the middle out of a long UID; its end tells series apart."""
    return uid if len(uid) <= 26 else f"{uid[:9]}\N{HORIZONTAL ELLIPSIS}{uid[-15:]}"


def words(state: str) -> str:
    """Write a state for people."""
    return STATE_WORDS.get(state, state)


def event_words(event: str) -> str:
    """Write an event for people."""
    return EVENT_WORDS.get(event, event.replace("_", " "))


def group_number(label: str) -> int:
    """Return the place of a group's label in the scheme, 0 to 4; for colours."""
    return next((int(group) for group in RiskGroup if group.label == label), 0)


def delivery_summary(states: dict[str, int]) -> tuple[str, str]:
    """Return (kind, words) of a job's deliveries: good, busy or bad."""
    total = sum(states.values())
    delivered = states.get("delivered", 0)
    if not total:
        return ("none", "")
    if states.get("refused"):
        return ("bad", f"{states['refused']} of {total} refused")
    if delivered + states.get("cancelled", 0) == total:
        return ("good", "delivered" if delivered else "cancelled")
    stored = states.get("stored", 0)
    if stored and stored + delivered == total:
        return ("busy", "stored, awaits commitment")
    return ("busy", f"{delivered} of {total} delivered")


def _nice_step(top: float) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that divides the axis into at most four."""
    raw = max(top, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)


def profile(slices: Sequence[dict[str, float]]) -> Markup:
    """Draw the slice scores against z (LPS mm, feet to the left) as an SVG."""
    rows = sorted(((float(one["z_mm"]), float(one["agatston"])) for one in slices), key=lambda row: row[0])
    if not rows:
        return Markup("")
    low, high = rows[0][0], rows[-1][0]
    step = _nice_step(max(value for _, value in rows) or 1.0)
    top = step * max(1, math.ceil(max(value for _, value in rows) / step))
    across = (WIDTH - LEFT - RIGHT) / max(len(rows), 1)

    def x(z: float) -> float:
        span = (high - low) or 1.0
        return LEFT + across / 2 + (z - low) / span * (WIDTH - LEFT - RIGHT - across)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    label = f"Predicted scores of {len(rows)} slices from z {low:.0f} to {high:.0f} mm"
    parts = [f'<svg class="profile" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for tick in range(round(top / step) + 1):
        level = tick * step
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>'
        )
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y(level) + 4:.1f}">{level:g}</text>')
    width = max(1.0, across * 0.8)
    for z, value in rows:
        if value > 0:
            parts.append(
                f'<rect class="bar" x="{x(z) - width / 2:.1f}" y="{y(value):.1f}" width="{width:.1f}" '
                f'height="{HEIGHT - BOTTOM - y(value):.1f}"><title>z {z:.1f} mm: {value:.1f}</title></rect>'
            )
    parts += [
        f'<text class="tick middle" x="{x(z):.1f}" y="{HEIGHT - 22}">{z:.0f}</text>'
        for z in (low, (low + high) / 2, high)
    ]
    parts.append(
        f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">z, mm (towards the head)</text></svg>'
    )
    return Markup("".join(parts))  # noqa: S704 (made of numbers)  # nosec B704


def _along(value: float) -> float:
    """Place a score on the scale of groups, 0 to 1: logarithmic, like the groups' bounds."""
    return min(1.0, math.log10(1 + max(0.0, value)) / math.log10(1 + SCALE_TOP))


def scale(value: float, low: float | None = None, high: float | None = None) -> Markup:
    """Draw the five groups as a band with a mark at the score and a line for its interval."""
    edges = [0.0, *RISK_THRESHOLDS, SCALE_TOP]
    label = f"Score {value:.1f} on the scale of the five risk groups"
    parts = [f'<svg class="scale" viewBox="0 0 {WIDTH} 54" role="img" aria-label="{label}">']
    for group in RiskGroup:
        left, right = _along(edges[group]) * WIDTH, _along(edges[group + 1]) * WIDTH
        parts.append(
            f'<rect class="band g{int(group)}" x="{left:.1f}" y="18" width="{right - left:.1f}" height="12"/>'
        )
        parts.append(f'<text class="tick" x="{left + 2:.1f}" y="44">{edges[group]:g}</text>')
    if low is not None and high is not None:
        parts.append(f'<line class="interval" x1="{_along(low) * WIDTH:.1f}" x2="{_along(high) * WIDTH:.1f}" '
                     'y1="24" y2="24"/>')  # fmt: skip
    at = min(WIDTH - 6.0, max(6.0, _along(value) * WIDTH))
    parts.append(f'<path class="mark" d="M{at - 6:.1f} 4 L{at + 6:.1f} 4 L{at:.1f} 16 Z"/></svg>')
    return Markup("".join(parts))  # noqa: S704 (made of numbers)  # nosec B704


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "duration": duration,
    "moment": moment,
    "size": size,
    "score": score,
    "short": short,
    "words": words,
    "event_words": event_words,
    "group_number": group_number,
    "delivery_summary": delivery_summary,
}
GLOBALS: dict[str, Any] = {"profile": profile, "scale": scale, "groups": [group.label for group in RiskGroup]}
