"""Is the process up, can the node work, how is it doing: for orchestrators and monitoring."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service.api import queries
from service.api.access import NEEDS_READER, Anyone, TheNode
from service.api.metrics import exposition
from service.api.node import Node
from service.api.schemas import ProcessOut, ReadyOut, StatusOut
from service.tables import now

router = APIRouter()


@router.get("/health/live", tags=["health"])
async def live() -> dict[str, str]:
    """Answer: the process is up. Touches nothing else, so that a slow database restarts no container."""
    return {"status": "up"}


@router.get("/health/ready", tags=["health"], responses={503: {"model": ReadyOut}})
def ready(node: TheNode, caller: Anyone) -> Response:
    """Answer 200 when the node can receive, score and remember, else 503; the checks need a role."""
    checks = node.readiness()
    answer = ReadyOut(ready=all(one.ok for one in checks), checks=checks if caller is not None else None)
    return JSONResponse(answer.model_dump(mode="json", exclude_none=True), 200 if answer.ready else 503)


@router.get("/metrics", tags=["health"], dependencies=[NEEDS_READER])
def metrics(node: TheNode) -> Response:
    """Return the figures in Prometheus' text format."""
    return Response(exposition(node), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/api/v1/status", tags=["node"], dependencies=[NEEDS_READER])
def status(node: TheNode) -> StatusOut:
    """Return the node at a glance."""
    return glance(node)


def glance(node: Node) -> StatusOut:
    """Collect what the status answer and the page show."""
    checks, counters = node.readiness(), node.counters()
    with node.database.reading() as session:
        processes = [ProcessOut.of(one) for one in queries.beats(session)]
        waiting = len(queries.alerts(session))
    moment = now()
    return StatusOut(
        version=node.version,
        ae_title=node.settings.ae_title,
        dicom_port=node.settings.dicom_port,
        ready=all(one.ok for one in checks),
        checks=checks,
        jobs=counters.jobs,
        jobs_last_day=counters.recent,
        groups_last_day=counters.groups,
        deliveries=counters.deliveries,
        open_series=counters.open_series,
        waiting_seconds=_age(moment, counters.waiting_since),
        undelivered_seconds=_age(moment, counters.undelivered_since),
        disk_free_bytes=node.disk_free_bytes(),
        alerts=waiting,
        processes=processes,
    )


def _age(moment: datetime, since: datetime | None) -> float | None:
    return None if since is None else max(0.0, (moment - since).total_seconds())
