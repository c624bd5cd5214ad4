"""Series that arrive, and alerts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query

from service import closing
from service.api import queries
from service.api.access import NEEDS_OPERATOR, NEEDS_READER, TheNode
from service.api.schemas import AlertOut, SeriesOut, SeriesPageOut
from service.tables import Alert, Job, Series, now

router = APIRouter(prefix="/api/v1", tags=["node"], dependencies=[NEEDS_READER])

MAX_ROW = 2**63 - 1  # of a BIGINT
RowNumber = Annotated[int, Path(ge=1, le=MAX_ROW)]


@router.get("/alerts")
def list_alerts(node: TheNode, acknowledged: bool = False) -> list[AlertOut]:
    """Return alerts, latest first; the acknowledged ones too where asked."""
    with node.database.reading() as session:
        return [AlertOut.of(one) for one in queries.alerts(session, acknowledged=acknowledged)]


@router.post("/alerts/{alert_id}/acknowledge", dependencies=[NEEDS_OPERATOR])
def acknowledge(node: TheNode, alert_id: RowNumber) -> AlertOut:
    """Take an alert off the page; it comes back when its cause does."""
    with node.database.transaction() as session:
        alert = session.get(Alert, alert_id, with_for_update=True)
        if alert is None:
            raise HTTPException(404, "there is no such alert")
        alert.acknowledged_at = alert.acknowledged_at or now()
        return AlertOut.of(alert)


@router.get("/series")
def list_series(
    node: TheNode,
    arriving: bool = False,
    before: Annotated[int | None, Query(ge=1, le=MAX_ROW)] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_PAGE)] = 50,
) -> SeriesPageOut:
    """Return series, latest first; those that still arrive where asked."""
    with node.database.reading() as session:
        if arriving:
            rows = queries.open_series(session, limit=limit)
            return SeriesPageOut(series=[SeriesOut.of(*row) for row in rows], next=None)
        rows = queries.series_page(session, before=before, limit=limit)
        last = rows[-1][0].id if len(rows) == limit else None
        return SeriesPageOut(series=[SeriesOut.of(*row) for row in rows], next=last)


@router.post("/series/{series_id}/complete", dependencies=[NEEDS_OPERATOR])
def complete(node: TheNode, series_id: RowNumber) -> SeriesOut:
    """Close a series that still arrives, now: its job works on the slices that are here."""
    job_id = closing.force(node.database, node.settings, series_id)
    with node.database.reading() as session:
        series = session.get(Series, series_id)
        if series is None:
            raise HTTPException(404, "there is no such series")
        if job_id is not None:
            node.dispatcher.score(job_id, session.get_one(Job, job_id).lane)
        return SeriesOut.of(series, queries.instances_of_series(session, series_id))
