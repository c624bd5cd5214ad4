"""The objects of a result, written durably into the outbox before any row speaks of them."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from service.jobs import ClaimedJob, NewObject
from service.routing import ALWAYS_MADE, NOT_ELIGIBLE
from service.store import Store, outbox_key
from worker.companions import BUILDERS, NoPlanesError
from worker.encoding import file_bytes
from worker.report.document import (
    SOP_CLASSES,
    Predecessor,
    build_not_eligible_report,
    build_report,
    series_uid,
    series_uid_beside,
)
from worker.report.source import Headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom.dataset import Dataset

    from calcium.series import CTSeries
    from models.pipeline import Outcome
    from models.results import Caution, ScoringResult
    from service.settings import Destination
    from worker.report.document import ReportConfig
    from worker.report.source import Source

log = logging.getLogger(__name__)

REPORT_KINDS = ("sr3d", "sr")
# Series of which nobody expects a score: a report on every scout would hide those that matter.
UNREPORTED = frozenset({"not_ct", "localizer", "derived_image"})


def wanted_kinds(destinations: Iterable[Destination]) -> tuple[str, ...]:
    """Return the kinds of objects to make for a scored series, the report first.

    ``sr`` stands by for archives that refuse the 3D class.
    """
    asked = {kind for destination in destinations for kind in destination.kinds}
    known = (*REPORT_KINDS, *BUILDERS)
    return tuple(kind for kind in known if kind in asked or kind in ALWAYS_MADE)


def predecessors(series: Source, claimed: ClaimedJob) -> tuple[Predecessor, ...]:
    """Return the reports that may have reached an archive and that the new one replaces.

    They are those on the series itself, and those on less suitable reconstructions of its acquisition.
    """
    study = claimed.study_instance_uid
    own = (
        Predecessor(SOP_CLASSES[kind], claimed.predecessors[kind], series_uid(series, "SR"))
        for kind in REPORT_KINDS
        if kind in claimed.predecessors
    )
    others = (
        Predecessor(
            SOP_CLASSES[one.kind], one.sop_instance_uid, series_uid_beside(study, one.series_instance_uid, "SR")
        )
        for one in claimed.replaces
    )
    return (*own, *others)


def build(
    series: CTSeries, result: ScoringResult, kinds: Iterable[str], config: ReportConfig
) -> Iterator[tuple[str, Dataset]]:
    """Yield (kind, object) for each kind that this source and result can have."""
    for kind in kinds:
        if kind in REPORT_KINDS:
            yield kind, build_report(series, result, kind=kind, config=config)  # type: ignore[arg-type]
            continue
        try:
            yield kind, BUILDERS[kind](series, result, config)
        except NoPlanesError as reason:
            log.info("no %s: %s", kind, reason)


def write(store: Store, claimed: ClaimedJob, kind: str, dataset: Dataset) -> NewObject:
    """Put one object durably into the outbox.

    Raises
    ------
    ResourcesError
        The disk is full.
    """
    content = file_bytes(dataset)
    key = outbox_key(claimed.job_id, kind, str(dataset.SOPInstanceUID))
    store.put(key, content)
    earlier = [claimed.predecessors[one] for one in REPORT_KINDS if one in claimed.predecessors]
    earlier += [one.sop_instance_uid for one in claimed.replaces]
    return NewObject(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        key=key,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        predecessor_uid=claimed.predecessors.get(kind, earlier[0] if earlier else None)
        if kind in REPORT_KINDS
        else None,
    )


def refused_source(
    store: Store, claimed: ClaimedJob, outcome: Outcome, destinations: Iterable[Destination]
) -> Source | None:
    """Return the source of the report on a series that got no score; None where no report is to be made.

    Most series are refused by their headers (calcium.eligibility), before there is a volume: those headers are
    read again here.

    Raises
    ------
    SeriesError
        A header cannot be read; the screening has just read it.
    """
    asked = any(NOT_ELIGIBLE in destination.kinds for destination in destinations)
    if not asked or outcome.reason_code in UNREPORTED:
        return None
    return outcome.series or Headers.read(store.path(key) for key in claimed.keys)


def not_eligible_object(
    store: Store, claimed: ClaimedJob, source: Source, reason: Caution, config: ReportConfig
) -> NewObject:
    """Write the report that says why there is no score.

    It holds no coordinates: Comprehensive SR says all of it, and more archives take that than the 3D class.
    """
    report = build_not_eligible_report(source, reason, kind="sr", config=config)
    return write(store, claimed, NOT_ELIGIBLE, report)
