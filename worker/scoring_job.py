"""One scoring job, from its row to its row: claim, compute, write, record.

Every effect happens once although the work may happen several times: the objects' bytes follow from the result,
they lie durably in the outbox before the one transaction that records result, objects and deliveries, and that
transaction is refused to whoever no longer holds the lease.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from calcium.errors import TransientError, WeightsError
from models.results import Caution
from service import deliveries, jobs, routing
from service.database import UNAVAILABLE, DatabaseUnavailableError
from service.jobs import ClaimedJob, NewObject
from service.leases import LeaseLostError
from service.routing import NOT_ELIGIBLE
from service.rules import Facts
from service.tables import Job, Result
from worker import outbox, reconstruction
from worker.identity import Device
from worker.lease import Renewal
from worker.report.document import ReportConfig
from worker.trouble import where

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.pipeline import Outcome
    from models.results import ScoringResult
    from service.settings import Destination
    from worker.node import WorkerNode
    from worker.report.source import Source
    from worker.scorers import Scorers

log = logging.getLogger(__name__)

DATABASE_TRIES = 5  # to record an end while the database restarts
DATABASE_PAUSE_SECONDS = 3.0


def score(node: WorkerNode, scorers: Scorers, job_id: str) -> None:
    """Score one job, if its row waits; urgent jobs that wait go first."""
    lease, settle = node.settings.lease_seconds, node.settings.settle_seconds
    while (
        urgent := jobs.claim_next(
            node.database, node.owner, lanes=("urgent",), lease_seconds=lease, settle_seconds=settle
        )
    ) is not None:
        _under_lease(node, scorers, urgent)
    claimed = jobs.claim(node.database, job_id, node.owner, lease_seconds=lease, settle_seconds=settle)
    if claimed is not None:
        _under_lease(node, scorers, claimed)


def _under_lease(node: WorkerNode, scorers: Scorers, claimed: ClaimedJob) -> None:
    lease = node.settings.lease_seconds
    with (
        Renewal(lambda: jobs.heartbeat(node.database, claimed, lease_seconds=lease), lease),
        node.work_on(lambda: jobs.hand_back(node.database, claimed)),
    ):
        try:
            _score(node, scorers, claimed)
        except LeaseLostError as error:  # cancelled, superseded, handed back: what we made is nobody's
            log.info("%s", error)
        except UNAVAILABLE as error:  # the lease runs out, and the job is done again
            log.error("job %s: the database is gone: %s", claimed.job_id, type(error).__name__)  # noqa: TRY400


def _score(node: WorkerNode, scorers: Scorers, claimed: ClaimedJob) -> None:
    try:
        verdict = reconstruction.weigh(node, claimed, scorers.rules)
        if verdict.chosen is not None:
            _patiently(lambda: jobs.finish_outdone(node.database, claimed, verdict))
            return
        claimed = replace(claimed, replaces=verdict.replaces)
        paths = [node.store.path(key) for key in claimed.keys]
        outcome = scorers.score(paths, careful=claimed.last_reason_code == "resources")
        end = _ending(node, claimed, outcome)
    except LeaseLostError:
        raise
    except (TransientError, WeightsError) as error:  # wrong weights are an operator's fault, who can cure it
        log.warning("job %s is tried again later: %s", claimed.job_id, error)
        code, text = error.code, str(error)
        end = lambda: _retry(node, claimed, code, text)  # noqa: E731
    except UNAVAILABLE as error:  # the database restarted while we asked it something: not the series' fault
        log.warning("job %s is tried again later: no database: %s", claimed.job_id, type(error).__name__)
        text = "the database did not answer in the middle of the job"
        end = lambda: _retry(node, claimed, DatabaseUnavailableError.code, text)  # noqa: E731
    except Exception as error:  # noqa: BLE001 (the job fails, the worker goes on)
        log.error("job %s failed: %s", claimed.job_id, where(error))  # noqa: TRY400 (its text may name a patient)
        words = f"unexpected {type(error).__name__}; the worker's log says where"
        end = lambda: jobs.finish_failed(node.database, claimed, "internal_error", words)  # noqa: E731
    _patiently(end)


def _ending(node: WorkerNode, claimed: ClaimedJob, outcome: Outcome) -> Callable[[], None]:
    """Write the objects of an outcome and return the step that records it."""
    seconds = dict(outcome.seconds)
    if outcome.status == "failed":
        code, words = outcome.reason_code or "failed", outcome.reason or ""
        return lambda: jobs.finish_failed(node.database, claimed, code, words, seconds=seconds)
    started = time.perf_counter()
    objects: list[NewObject] = []
    takers: tuple[Destination, ...] = ()
    if outcome.status == "not_eligible":
        reason = Caution(outcome.reason_code or "not_eligible", outcome.reason or "")
        source = outbox.refused_source(node.store, claimed, outcome, node.settings.all_destinations)
        if source is not None:
            takers = _takers(node, claimed, source, outcome)
            if any(NOT_ELIGIBLE in one.kinds for one in takers):
                config = _config(node, claimed, source)
                objects.append(outbox.not_eligible_object(node.store, claimed, source, reason, config))
        seconds["report"] = time.perf_counter() - started
        return lambda: _hint(
            node,
            jobs.finish_not_eligible(
                node.database, claimed, reason.code, reason.text,
                objects=objects, destinations=takers, seconds=seconds,
            ),
        )  # fmt: skip
    if outcome.series is None or outcome.result is None:
        raise ValueError(f"an outcome {outcome.status!r} without series or result")
    result = outcome.result
    config = _config(node, claimed, outcome.series)
    takers = _takers(node, claimed, outcome.series, outcome)
    for kind, dataset in outbox.build(outcome.series, result, outbox.wanted_kinds(takers), config):
        objects.append(outbox.write(node.store, claimed, kind, dataset))
    seconds["report"] = time.perf_counter() - started
    return lambda: _scored(node, claimed, result_row(result), objects, takers=takers, seconds=seconds)


def _takers(node: WorkerNode, claimed: ClaimedJob, source: Source, outcome: Outcome) -> tuple[Destination, ...]:
    """Return the destinations that take such a result, and those that hold a report which it corrects."""
    facts = Facts(
        calling_ae=claimed.calling_ae,
        called_ae=claimed.called_ae,
        address=claimed.address,
        outcome="scored" if outcome.status == "scored" else "not_eligible",
        risk_group=outcome.result.risk_group.label if outcome.result is not None else "",
    )
    destinations = node.settings.all_destinations
    taking = routing.takers(destinations, facts.with_header(source.header))
    earlier = [*claimed.predecessors.values(), *(one.sop_instance_uid for one in claimed.replaces)]
    holding = deliveries.holders(node.database, earlier)
    return tuple(one for one in destinations if one in taking or one.name in holding)


def _scored(
    node: WorkerNode,
    claimed: ClaimedJob,
    result: Result,
    objects: list[NewObject],
    *,
    takers: tuple[Destination, ...],
    seconds: dict[str, float],
) -> None:
    try:
        _hint(node, jobs.finish_scored(node.database, claimed, result, objects, takers, seconds=seconds))
    except jobs.OutdoneError as error:  # a better reconstruction came while this one was scored
        jobs.finish_outdone(node.database, claimed, error.verdict, seconds=seconds)
        node.store.delete([one.key for one in objects])


def _config(node: WorkerNode, claimed: ClaimedJob, source: Source) -> ReportConfig:
    with node.database.reading() as session:
        made_at = session.get_one(Job, claimed.job_id).created_at
    return ReportConfig(
        made_at=made_at,
        device=Device(station_name=node.settings.ae_title),
        revision=claimed.revision,
        predecessors=outbox.predecessors(source, claimed),
    )


def _hint(node: WorkerNode, delivery_ids: list[int]) -> None:
    for delivery_id in delivery_ids:
        node.dispatcher.deliver(delivery_id)


def _retry(node: WorkerNode, claimed: ClaimedJob, code: str, reason: str) -> None:
    settings = node.settings
    jobs.retry_later(
        node.database,
        claimed,
        code,
        reason,
        first_seconds=settings.retry_first_seconds,
        cap_seconds=settings.retry_cap_seconds,
        max_attempts=settings.max_attempts,
    )


def _patiently(step: Callable[[], None]) -> None:
    """Record an end; where the database restarts just then, wait for it: the work is done and worth keeping."""
    for attempt in range(1, DATABASE_TRIES + 1):
        try:
            step()
        except UNAVAILABLE:
            if attempt == DATABASE_TRIES:
                raise
            time.sleep(DATABASE_PAUSE_SECONDS)
        else:
            return


def result_row(result: ScoringResult) -> Result:
    """Return the row of a result, without its job."""
    low, high = result.agatston_interval or (None, None)
    weights = result.weights
    return Result(
        agatston=result.agatston,
        agatston_low=low,
        agatston_high=high,
        volume_mm3=result.volume_mm3,
        risk_group=result.risk_group.label,
        heart_box_mm=[list(result.heart_box.low), list(result.heart_box.high)],
        slice_scores=[
            {"z_mm": one.z_mm, "agatston": one.agatston, "volume_mm3": one.volume_mm3}
            for one in result.slice_scores
        ],
        group_probabilities=list(result.group_probabilities) if result.group_probabilities else None,
        warnings=[{"code": caution.code, "text": caution.text} for caution in result.cautions],
        weights={
            "name": weights.name,
            "version": weights.version,
            "sha256": weights.sha256,
            "training_data": weights.training_data,
            "validated_by_site": weights.validated_by_site,
        },
    )
