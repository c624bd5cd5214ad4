"""Before a job is scored: looks whether another series of its study is a better reconstruction of the scan."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from calcium.errors import SeriesError
from calcium.reconstructions import Reconstruction
from calcium.series import read_headers
from service import jobs, reconstructions
from service.reconstructions import Verdict
from service.tables import Job

if TYPE_CHECKING:
    from calcium.eligibility import EligibilityRules
    from service.jobs import ClaimedJob
    from service.reconstructions import Undescribed
    from worker.node import WorkerNode

log = logging.getLogger(__name__)


def weigh(node: WorkerNode, claimed: ClaimedJob, rules: EligibilityRules) -> Verdict:
    """Return whether a claimed job is to be scored, or which series is scored in its place.

    Nothing is read where the series is the only one of its study, or the site scores all (setting
    ``reconstructions``), or a person asked for this one.

    Raises
    ------
    LeaseLostError
        The job is no longer ours.
    """
    if node.settings.reconstructions == "all":
        return Verdict()
    with node.database.reading() as session:
        job = session.get_one(Job, claimed.job_id)
        if job.forced or not reconstructions.has_siblings(session, job):
            return Verdict()
        own, *others = reconstructions.undescribed(
            session, claimed.study_instance_uid, first=claimed.job_id
        ) or [reconstructions.Undescribed(claimed.job_id, ())]
    mine = _describe(node, own, rules)
    if mine is None or mine.refusal is not None:  # its own fault is what its job will say
        return Verdict()
    found = [(own.job_id, mine)]
    for other in others:
        # One header tells whether it is another scan: then it is none of our business.
        glance = _describe(node, reconstructions.Undescribed(other.job_id, other.keys[:1]), rules)
        if glance is not None and glance.acquisition[: len(mine.acquisition)] == mine.acquisition:
            whole = _describe(node, other, rules)
            if whole is not None:
                found.append((other.job_id, whole))
    reconstructions.describe(node.database, found)
    return jobs.choose(node.database, claimed)


def _describe(node: WorkerNode, one: Undescribed, rules: EligibilityRules) -> Reconstruction | None:
    if not one.keys:
        return None
    try:
        return Reconstruction.of(read_headers([node.store.path(key) for key in one.keys]), rules)
    except SeriesError as error:  # unreadable: no candidate, and its own job says so
        log.info("job %s is no candidate: %s", one.job_id, error)
        return None
