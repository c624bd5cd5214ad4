"""States of a job and the transitions between them, as data."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """State of the work on one set of instances of one series."""

    WAITING = "waiting"  # series complete, ready to be claimed (not before `not_before`)
    RUNNING = "running"  # a worker holds the lease
    SCORED = "scored"  # result and report are durable
    NOT_ELIGIBLE = "not_eligible"  # readable, but gets no score; the reason says why
    FAILED = "failed"  # a fault that no retry cures; the reason says why
    QUARANTINED = "quarantined"  # killed its worker too often
    SUPERSEDED = "superseded"  # a later revision of its series, or a better reconstruction, took over
    CANCELLED = "cancelled"  # by an operator


TERMINAL = frozenset(JobState) - {JobState.WAITING, JobState.RUNNING}

# event -> {state before: state after}
TRANSITIONS: dict[str, dict[JobState, JobState]] = {
    "claim": {JobState.WAITING: JobState.RUNNING},
    "hand_back": {JobState.RUNNING: JobState.WAITING},  # graceful stop, no attempt counted
    "lease_lost": {JobState.RUNNING: JobState.WAITING},  # the worker died; counts as a kill
    "retry": {JobState.RUNNING: JobState.WAITING},  # transient error; delay grows
    "score": {JobState.RUNNING: JobState.SCORED},
    "refuse": {JobState.RUNNING: JobState.NOT_ELIGIBLE},
    "fail": {JobState.RUNNING: JobState.FAILED},
    "quarantine": {JobState.RUNNING: JobState.QUARANTINED},
    "cancel": {JobState.WAITING: JobState.CANCELLED, JobState.RUNNING: JobState.CANCELLED},
    "supersede": {state: JobState.SUPERSEDED for state in JobState if state is not JobState.SUPERSEDED},
    "rerun": dict.fromkeys(
        (JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED, JobState.NOT_ELIGIBLE), JobState.WAITING
    ),
}


def transition(state: JobState, event: str) -> JobState:
    """Return the state after `event`.

    Raises
    ------
    KeyError
        No such event.
    ValueError
        The event is not allowed in `state`.
    """
    allowed = TRANSITIONS[event]
    if state not in allowed:
        raise ValueError(f"a job that is {state} cannot {event}")
    return allowed[state]
