"""The coronary arteries as label values, and the names that other tools give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum


class Vessel(IntEnum):
    """Label values, those of orCaScore; the left main counts as LAD."""

    LAD = 1
    LCX = 2
    RCA = 3


# Words of a name (lower case, letters only) -> vessel, the first match counts.
_NAMES: tuple[tuple[re.Pattern[str], Vessel], ...] = (
    (re.compile(r"\b(?:lcx|cx|circ|circumflex)\b"), Vessel.LCX),
    (re.compile(r"\b(?:lad|lm|lmca|lca|left main|left anterior descending|left coronary)\b"), Vessel.LAD),
    (re.compile(r"\b(?:rca|pda|right coronary)\b"), Vessel.RCA),
)


def vessel_of(name: str, names: Mapping[str, int] | None = None) -> int | None:
    """Return the label value that a name of a region stands for.

    Parameters
    ----------
    name
        E.g. ``Left Anterior Descending Artery``, ``RCA``, ``calcium_LCX``.
    names
        A site's own names, exact, before the usual ones.

    Returns
    -------
    int or None
        None where the name is of no coronary artery.
    """
    if names and name in names:
        return int(names[name])
    words = re.sub(r"[^a-z]+", " ", name.lower())
    return next((int(vessel) for pattern, vessel in _NAMES if pattern.search(words)), None)
