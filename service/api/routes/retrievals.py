"""What was retrieved from archives, by sweeps and by request; and where results would go."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import AfterValidator, BaseModel, ConfigDict

from service import retrievals, routing
from service.api.access import NEEDS_READER, TheNode
from service.api.routes.node import RowNumber
from service.rules import Facts
from service.settings import AeTitle
from service.tables import Retrieval

router = APIRouter(prefix="/api/v1", tags=["archive"], dependencies=[NEEDS_READER])


def _ip(text: str) -> str:
    return str(ipaddress.ip_address(text)) if text else text


class RetrievalOut(BaseModel):
    """A run of a sweep, or a pull that somebody asked for; nothing in it names a patient."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: int
    kind: str
    name: str
    archive: str
    actor: str
    state: str
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    found: int
    known: int
    passed_over: int
    fetched: int
    failed: int
    error: str | None
    faults: list[dict[str, str]]


class RouteIn(Facts):
    """A result that might come: who sent the series, what its headers say, and what became of it."""

    calling_ae: AeTitle
    address: Annotated[str, AfterValidator(_ip)] = ""


class DecisionOut(BaseModel):
    """What one destination gets, and which setting decided."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    destination: str
    kinds: list[str]
    rule: str


@router.get("/retrievals")
def list_retrievals(
    node: TheNode,
    name: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[RetrievalOut]:
    """Return retrievals, newest first; those of one sweep where its name is given."""
    return [
        RetrievalOut.model_validate(one) for one in retrievals.latest(node.database, name=name, limit=limit)
    ]


@router.get("/retrievals/{retrieval_id}")
def get_retrieval(node: TheNode, retrieval_id: RowNumber) -> RetrievalOut:
    """Return one retrieval."""
    with node.database.reading() as session:
        row = session.get(Retrieval, retrieval_id)
        if row is None:
            raise HTTPException(404, "there is no such retrieval")
        return RetrievalOut.model_validate(row)


@router.post("/routing/test")
def test_routing(node: TheNode, body: RouteIn) -> list[DecisionOut]:
    """Tell which objects of a result each destination would get, and which of its settings decided."""
    destinations = node.settings.all_destinations
    decisions = routing.route(destinations, body, routing.written(destinations, body))
    return [DecisionOut.model_validate(one) for one in decisions]
