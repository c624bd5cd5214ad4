"""Where the objects of a result go, and why: each destination says which kinds it takes, of which results.

Each destination decides for itself, by its own settings and the facts alone: their order is of no matter, and
several may take the same. The same functions plan deliveries and answer the tester (``POST
/api/v1/routing/test``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from service.rules import Facts
    from service.settings import Destination

# Made even where no destination asks for them: the status page shows and offers them (worker.outbox).
ALWAYS_MADE = ("sr3d", "summary")
NOT_ELIGIBLE = "not_eligible"  # kind of the optional report that says why there is no score


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
        What decided, in words and by the names of settings; never by values of the series.
    """

    destination: str
    kinds: tuple[str, ...]
    rule: str


def route(destinations: Iterable[Destination], facts: Facts, kinds: Collection[str]) -> list[Decision]:
    """Return what each destination gets of the objects of one result.

    Parameters
    ----------
    kinds
        Of the objects that were written.
    """
    return [_decision(one, facts, kinds) for one in destinations]


def takers(destinations: Iterable[Destination], facts: Facts) -> tuple[Destination, ...]:
    """Return the destinations that take such results."""
    return tuple(one for one in destinations if _refusal(one, facts) is None)


def share(to: Destination, kinds: Collection[str]) -> tuple[str, ...]:
    """Return the kinds that a destination gets of a result that it takes.

    Where it takes both ``sr3d`` and ``sr`` it gets only the former where both were written: the same report in
    two SOP classes would be two reports.
    """
    taken = tuple(kind for kind in kinds if kind in to.kinds)
    return tuple(kind for kind in taken if kind != "sr") if "sr3d" in taken else taken


def _refusal(to: Destination, facts: Facts) -> str | None:
    if to.sources and facts.calling_ae not in to.sources:
        return f"sources: only what {', '.join(to.sources)} sent"
    misfit = to.match.first_misfit(facts)
    return None if misfit is None else f"match: {misfit} is not {to.match.words(misfit)}"


def _decision(to: Destination, facts: Facts, kinds: Collection[str]) -> Decision:
    refusal = _refusal(to, facts)
    if refusal is not None:
        return Decision(to.name, (), refusal)
    taken = share(to, kinds)
    if not taken:
        return Decision(to.name, (), f"kinds: only {', '.join(to.kinds)}")
    said = [f"sources: {facts.calling_ae} is one of them" if to.sources else "sources: any sender"]
    if to.match.keys:
        said.append(f"match: {', '.join(to.match.keys)} fit")
    if {"sr3d", "sr"} <= {kind for kind in kinds if kind in to.kinds}:
        said.append("kinds: sr3d stands for sr")
    return Decision(to.name, taken, "; ".join(said))


def written(destinations: Iterable[Destination], facts: Facts) -> tuple[str, ...]:
    """Return the kinds of objects that a result leads to with these destinations."""
    asked = {kind for one in takers(destinations, facts) for kind in one.kinds}
    if facts.outcome == "not_eligible":
        return (NOT_ELIGIBLE,) if NOT_ELIGIBLE in asked else ()
    return (*ALWAYS_MADE, *sorted(asked - {*ALWAYS_MADE, NOT_ELIGIBLE}))
