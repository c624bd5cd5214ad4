"""Where the objects of a result go, and why: each destination says which kinds it takes, of whose series.

The same function plans deliveries and answers the tester (``POST /api/v1/routing/test``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from service.settings import Destination

# Made for every scored series; the others where a destination asks for them (worker.outbox).
ALWAYS_MADE = ("sr3d", "summary")
NOT_ELIGIBLE = "not_eligible"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one destination gets.

    Parameters
    ----------
    destination
        Its name.
    kinds
        Of the objects that go there; empty: nothing does.
    rule
        What decided, in words and by the names of settings.
    """

    destination: str
    kinds: tuple[str, ...]
    rule: str


def route(destinations: Iterable[Destination], *, calling_ae: str, kinds: Collection[str]) -> list[Decision]:
    """Return what each destination gets of the objects of one result.

    A destination that takes both ``sr3d`` and ``sr`` gets only the former where both were written: the same
    report in two SOP classes would be two reports.

    Parameters
    ----------
    calling_ae
        Who sent the series.
    kinds
        Of the objects that were written.
    """
    return [_decision(one, calling_ae, tuple(kinds)) for one in destinations]


def _decision(to: Destination, calling_ae: str, kinds: tuple[str, ...]) -> Decision:
    if to.sources and calling_ae not in to.sources:
        return Decision(to.name, (), f"sources: only what {', '.join(to.sources)} sent")
    taken = tuple(kind for kind in kinds if kind in to.kinds)
    if not taken:
        return Decision(to.name, (), f"kinds: only {', '.join(to.kinds)}")
    rule = f"sources: {calling_ae} is one of them" if to.sources else "sources: any sender"
    if {"sr3d", "sr"} <= set(taken):
        taken = tuple(kind for kind in taken if kind != "sr")
        rule += "; kinds: sr3d stands for sr"
    return Decision(to.name, taken, rule)


def written(destinations: Iterable[Destination], *, scored: bool) -> tuple[str, ...]:
    """Return the kinds of objects that a result leads to with these destinations."""
    asked = {kind for one in destinations for kind in one.kinds}
    if not scored:
        return (NOT_ELIGIBLE,) if NOT_ELIGIBLE in asked else ()
    return (*ALWAYS_MADE, *sorted(asked - {*ALWAYS_MADE, NOT_ELIGIBLE}))
