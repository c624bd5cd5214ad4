"""Jobs: lists, one job, its result in several forms, and what an operator may do to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response, StreamingResponse

from calcium.job import JobState
from service import actions
from service.api import exports, fhir, hl7, queries
from service.api.access import NEEDS_READER, Operator, TheNode
from service.api.node import Node
from service.api.schemas import (
    DoneOut,
    JobDetailOut,
    JobOut,
    JobPageOut,
    JobSearchIn,
    Moment,
    ResentOut,
    ResultOut,
)
from service.tables import Job

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], dependencies=[NEEDS_READER])

Limit = Annotated[int, Query(ge=1, le=queries.MAX_PAGE)]
CursorText = Annotated[str | None, Query(max_length=200)]


@router.get("")
def list_jobs(  # noqa: PLR0917 (one argument for each query parameter)
    node: TheNode,
    state: Annotated[list[JobState] | None, Query(max_length=len(JobState))] = None,
    lane: Literal["normal", "urgent"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> JobPageOut:
    """Return jobs, newest first. UIDs are searched by POST /api/v1/jobs/search."""
    wanted = queries.JobFilter(states=tuple(state or ()), lane=lane, since=since, until=until)
    return _page(node, wanted, limit, cursor)


@router.get("/csv", response_class=StreamingResponse)
def export_csv(
    node: TheNode,
    state: Annotated[list[JobState] | None, Query(max_length=len(JobState))] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> StreamingResponse:
    """Return the results of many jobs as CSV, newest first; rows stream as they are read."""
    wanted = queries.JobFilter(states=tuple(state or ()), since=since, until=until)
    headers = {"Content-Disposition": 'attachment; filename="agatston.csv"'}
    return StreamingResponse(_csv_rows(node, wanted), media_type="text/csv; charset=utf-8", headers=headers)


def _csv_rows(node: Node, wanted: queries.JobFilter) -> Iterator[str]:
    cursor, first = None, True
    while first or cursor is not None:
        with node.database.reading() as session:  # one short transaction a page
            page = queries.page(session, wanted, after=cursor, limit=queries.MAX_PAGE)
            rows = [ResultOut.of(one) for one in page.jobs]
        yield exports.csv(rows, header=first)
        cursor, first = page.next, False


@router.post("/search")
def search(node: TheNode, body: JobSearchIn) -> JobPageOut:
    """Return the jobs of a series or study, newest first."""
    wanted = queries.JobFilter(
        states=tuple(body.state),
        lane=body.lane,
        since=body.since,
        until=body.until,
        series_instance_uid=body.series_instance_uid,
        study_instance_uid=body.study_instance_uid,
    )
    return _page(node, wanted, body.limit, body.cursor)


def _page(node: Node, wanted: queries.JobFilter, limit: int, cursor: str | None) -> JobPageOut:
    with node.database.reading() as session:
        found = queries.page(session, wanted, after=parse_cursor(cursor), limit=limit)
        return JobPageOut(
            jobs=[JobOut.of(one) for one in found.jobs], next=str(found.next) if found.next else None
        )


def parse_cursor(text: str | None) -> queries.Cursor | None:
    """Read a cursor, or answer 422."""
    try:
        return queries.Cursor.parse(text) if text else None
    except ValueError as error:
        raise HTTPException(422, "the cursor is none of ours") from error


@router.get("/{job_id}")
def get_job(node: TheNode, job_id: UUID) -> JobDetailOut:
    """Return one job with result, objects, deliveries and history."""
    return detail(node, str(job_id))


def detail(node: Node, job_id: str) -> JobDetailOut:
    """Read one job with all that hangs on it, or answer 404."""
    with node.database.reading() as session:
        found = _existing(queries.job(session, job_id))
        return JobDetailOut.whole(
            found,
            queries.instances_of_series(session, found.series_id),
            list(queries.events(session, job_id)),
            list(queries.revisions(session, found.series_id)),
        )


def _existing(job: Job | None) -> Job:
    if job is None:
        raise HTTPException(404, "there is no such job")
    return job


@router.get("/{job_id}/result")
def get_result(node: TheNode, job_id: UUID) -> ResultOut:
    """Return the result as JSON; a job without a score says why in `reason`."""
    return _result(node, job_id)


def _result(node: Node, job_id: UUID) -> ResultOut:
    with node.database.reading() as session:
        return ResultOut.of(_existing(queries.job(session, str(job_id))))


@router.get("/{job_id}/result/csv", response_class=Response)
def get_result_csv(node: TheNode, job_id: UUID) -> Response:
    """Return the result as one row of CSV below its header."""
    return Response(exports.csv([_result(node, job_id)]), media_type="text/csv; charset=utf-8")


@router.get("/{job_id}/result/fhir", response_class=Response)
def get_result_fhir(node: TheNode, job_id: UUID) -> Response:
    """Return the result as an HL7 FHIR R4 bundle; 409 for a job without a score."""
    return Response(fhir.bundle(exportable(node, job_id)), media_type="application/fhir+json")


@router.get("/{job_id}/result/hl7", response_class=Response)
def get_result_hl7(node: TheNode, job_id: UUID) -> Response:
    """Return the result as an HL7 v2.5.1 ORU^R01 message; 409 for a job without a score."""
    text = hl7.message(exportable(node, job_id))
    return Response(text.encode(), media_type="x-application/hl7-v2+er7; charset=utf-8")


def exportable(node: Node, job_id: UUID) -> exports.Scored:
    """Return a scored job with its report, or answer 404 or 409."""
    with node.database.reading() as session:
        return exports.scored(_existing(queries.job(session, str(job_id))), node.settings)


@router.post("/{job_id}/rerun")
def rerun(node: TheNode, caller: Operator, job_id: UUID) -> DoneOut:
    """Let a job that failed, was refused, quarantined or cancelled wait again."""
    return DoneOut(
        id=str(job_id), state=actions.rerun(node.database, node.dispatcher, str(job_id), caller.name)
    )


@router.post("/{job_id}/cancel")
def cancel(node: TheNode, caller: Operator, job_id: UUID) -> DoneOut:
    """End a job that waits or runs."""
    return DoneOut(id=str(job_id), state=actions.cancel(node.database, str(job_id), caller.name))


@router.post("/{job_id}/force")
def force(node: TheNode, caller: Operator, job_id: UUID) -> DoneOut:
    """Run a job now in the urgent lane; one that has ended without a score is re-run so."""
    return DoneOut(
        id=str(job_id), state=actions.force(node.database, node.dispatcher, str(job_id), caller.name)
    )


@router.post("/{job_id}/deliver-again")
def deliver_again(node: TheNode, caller: Operator, job_id: UUID) -> ResentOut:
    """Send the job's objects again, to every destination that they were planned for."""
    return ResentOut(deliveries=actions.deliver_again(node.database, node.dispatcher, str(job_id), caller.name))
