"""The sweeps of the settings: how their latest run went, and running one now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict

from service import retrievals, sweeps
from service.api.access import NEEDS_READER, Operator, TheNode
from service.api.node import Node
from service.api.routes.retrievals import RetrievalOut

router = APIRouter(prefix="/api/v1/sweeps", tags=["archive"], dependencies=[NEEDS_READER])

SweepName = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,48}$")]


class SweepOut(BaseModel):
    """A sweep of the settings and its latest run."""

    model_config = ConfigDict(frozen=True)

    name: str
    archive: str
    schedule: str
    last: RetrievalOut | None


class AskedOut(BaseModel):
    """Where to look what became of it: /api/v1/retrievals/{id}."""

    retrieval: int


def all_of(node: Node) -> list[SweepOut]:
    """Return all sweeps, in the order of the settings."""
    found = []
    for sweep in node.settings.sweeps:
        last = retrievals.last(node.database, sweep.name)
        found.append(
            SweepOut(
                name=sweep.name,
                archive=sweep.archive or "",
                schedule=sweeps.schedule(sweep),
                last=RetrievalOut.model_validate(last) if last is not None else None,
            )
        )
    return found


@router.get("")
def list_sweeps(node: TheNode) -> list[SweepOut]:
    """Return the sweeps of the settings, each with its latest run."""
    return all_of(node)


@router.post("/{name}/run", status_code=202)
def run_sweep(node: TheNode, who: Operator, name: SweepName) -> AskedOut:
    """Let a sweep run now, throttled as ever; 409 while it runs already or is asked for."""
    return AskedOut(retrieval=sweeps.ask(node.settings, node.database, name, who.name))
