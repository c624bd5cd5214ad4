"""Pulling over HTTP: ask an archive which series it holds, and let some be fetched."""

from __future__ import annotations

import logging
import threading
from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from calcium.errors import AgatstonError, SettingsError
from service import pulling, retrievals
from service.admission import Admission
from service.api.access import NEEDS_OPERATOR, Operator, TheNode
from service.api.node import Node
from service.api.schemas import Uid
from service.beats import process_name
from service.inbox import Inbox
from service.store import Store

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1/archive", tags=["archive"], dependencies=[NEEDS_OPERATOR])

MAX_FOUND = 500  # series of one answer
MAX_PULLED = 100  # series of one request
Pattern = Annotated[str, Field(max_length=64, pattern=r"^[^\\\x00-\x1f]*$")]  # PS3.5 section 6.2, VR LO


class FindIn(BaseModel):
    """Which series of which archive."""

    model_config = ConfigDict(extra="forbid")

    # A name out of the settings only: an operator of the API must not make the node call any host.
    archive: Annotated[str, Field(max_length=64)] | None = None
    dates: Annotated[str, Field(pattern=r"^(\d{8})?-?(\d{8})?$")] = ""
    modality: Annotated[str, Field(pattern=r"^[A-Z]{0,16}$")] = "CT"
    description: Pattern = "*"
    study_description: Pattern = "*"
    protocol: Pattern = "*"
    study_instance_uid: Uid | None = None
    series_instance_uid: Uid | None = None
    only_new: bool = True


class FoundOut(BaseModel):
    """A series that an archive holds."""

    study_instance_uid: str
    series_instance_uid: str
    study_date: str
    modality: str
    description: str
    body_part: str
    protocol: str
    instances: int | None
    known: bool


class SeriesIn(BaseModel):
    """A series to fetch."""

    model_config = ConfigDict(extra="forbid")

    study_instance_uid: Uid
    series_instance_uid: Uid


class PullIn(BaseModel):
    """Series to fetch from an archive."""

    model_config = ConfigDict(extra="forbid")

    archive: Annotated[str, Field(max_length=64)] | None = None
    method: Literal["auto", "get", "move"] = "auto"
    series: Annotated[list[SeriesIn], Field(min_length=1, max_length=MAX_PULLED)]


class PullOut(BaseModel):
    """How many series will be fetched, and where to look what became of them: /api/v1/retrievals/{id}."""

    accepted: int
    retrieval: int


def _peer(node: Node, name: str | None) -> pulling.Archive:
    if name is not None and ("@" in name or ":" in name):
        raise HTTPException(422, "name a peer or destination of the settings, not an address")
    try:
        return pulling.peer_of(node.settings, name)
    except SettingsError as error:
        raise HTTPException(404, str(error)) from error


@router.post("/find")
def find(node: TheNode, body: FindIn) -> list[FoundOut]:
    """Ask an archive which series it holds; nothing in the answer names a patient."""
    wanted = pulling.Wanted(
        modality=body.modality,
        dates=body.dates,
        description=body.description,
        study_description=body.study_description,
        protocol=body.protocol,
        study_instance_uid=body.study_instance_uid or "",
        series_instance_uid=body.series_instance_uid or "",
    )
    found: list[FoundOut] = []
    for one in pulling.find(_peer(node, body.archive), wanted, calling_ae=node.settings.ae_title):
        known = pulling.is_known(node.database, one)
        if known and body.only_new:
            continue
        found.append(
            FoundOut(
                study_instance_uid=one.study_instance_uid,
                series_instance_uid=one.series_instance_uid,
                study_date=one.study_date,
                modality=one.modality,
                description=one.description,
                body_part=one.body_part,
                protocol=one.protocol,
                instances=one.instances,
                known=known,
            )
        )
        if len(found) >= MAX_FOUND:
            break
    return found


@router.post("/pull", status_code=202)
def pull(node: TheNode, who: Operator, body: PullIn, later: BackgroundTasks) -> PullOut:
    """Fetch series one after another; 409 while an earlier request still fetches.

    Should the API end meanwhile the retrieval is marked as lost: ask again; what came is not fetched twice.
    """
    peer = _peer(node, body.archive)
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise HTTPException(409, "another pull is under way")
    series = [
        pulling.FoundSeries(one.study_instance_uid, one.series_instance_uid, "", "CT", "", "", None)
        for one in body.series
    ]
    try:
        number = retrievals.begin(
            node.database, kind="pull", archive=body.archive or "", actor=who.name, owner=process_name("api")
        )
        retrievals.found(node.database, number, len(series))
    except BaseException:
        _ONE_AT_A_TIME.release()
        raise
    later.add_task(_pull, node, peer, body.method, series, number)
    return PullOut(accepted=len(series), retrieval=number)


_ONE_AT_A_TIME = threading.Lock()


def _pull(
    node: Node,
    peer: pulling.Archive,
    method: pulling.Method,
    series: list[pulling.FoundSeries],
    number: int,
) -> None:
    store = Store(node.settings.store_root)
    inbox = Inbox(node.settings, store, node.database)
    database = node.database
    try:
        with retrievals.ending(database, number, stopped=lambda: node.closing):
            admission = Admission(node.settings, store, database)
            puller = pulling.Puller(node.settings, database, inbox, admission, peer, method=method)
            pulled = puller.pull_all(
                series, stopping=lambda: node.closing, waits=lambda: retrievals.touch(database, number)
            )
            for one in pulled:
                uid = one.series.series_instance_uid
                log.info("%s: %d instances %s [%s]", one.outcome, one.instances, one.text, uid)
                retrievals.note(database, number, one)
    except AgatstonError as error:
        log.warning("the pull ended: %s", error)
    finally:
        inbox.close()
        _ONE_AT_A_TIME.release()
