"""The status page and its relatives: rendered here, refreshed by asking for a fragment of the same page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from calcium.job import JobState
from service import actions, retrievals, sweeps
from service.api import drawing, queries
from service.api.access import NEEDS_OPERATOR, Anyone, Operator, Reader, TheNode
from service.api.node import Node
from service.api.routes import health
from service.api.routes import jobs as job_routes
from service.api.routes import sweeps as sweep_routes
from service.api.schemas import AlertOut, JobOut, SeriesOut
from service.api.security import COOKIE, Caller
from service.tables import Alert, now

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 25
PULL_ROWS = 5
SESSION_SECONDS = 12 * 3600  # a sign-in lasts a working day

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(drawing.FILTERS)
_templates.globals.update(drawing.GLOBALS)


async def _form(request: Request) -> dict[str, str]:
    """Read a form sent as application/x-www-form-urlencoded; the body's size is bounded before."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(body, max_num_fields=10))
    except ValueError as error:
        raise HTTPException(422, "the form has too many fields") from error


Fields = Annotated[dict[str, str], Depends(_form)]

Action = Callable[[Node, str, str], object]
ACTIONS: dict[str, Action] = {
    "rerun": lambda node, job, who: actions.rerun(node.database, node.dispatcher, job, who),
    "cancel": lambda node, job, who: actions.cancel(node.database, job, who),
    "force": lambda node, job, who: actions.force(node.database, node.dispatcher, job, who),
    "deliver-again": lambda node, job, who: actions.deliver_again(node.database, node.dispatcher, job, who),
}


@dataclass(frozen=True, slots=True)
class Tab:
    """A group of job states that the page lists together."""

    key: str
    title: str
    states: tuple[JobState, ...]


TABS = (
    Tab("all", "All", ()),
    Tab("active", "Waiting and running", (JobState.WAITING, JobState.RUNNING)),
    Tab("scored", "Scored", (JobState.SCORED,)),
    Tab("not-eligible", "Not eligible", (JobState.NOT_ELIGIBLE,)),
    Tab("trouble", "Trouble", (JobState.FAILED, JobState.QUARANTINED)),
    Tab("past", "Superseded, cancelled", (JobState.SUPERSEDED, JobState.CANCELLED)),
)


def wants_page(request: Request) -> bool:
    """Tell whether a browser asks, outside the API."""
    path = request.url.path
    return not path.startswith(("/api/", "/health/", "/metrics")) and "text/html" in request.headers.get(
        "accept", ""
    )


def _render(
    request: Request, name: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> Response:
    node: Node = request.app.state.node
    values.setdefault("caller", None)
    text = _templates.get_template(name).render(
        node=node, settings=node.settings, now=now(), asset_version=node.version, **values
    )
    # A page that did not change is not sent again: the refresh of a quiet node costs some bytes.
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-store"})
    return HTMLResponse(text, status, headers={"ETag": tag, "Cache-Control": "no-store", **(headers or {})})


def error_page(request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
    """Show an error to a browser; one that lacks a token is sent to sign in."""
    if status == 401:
        return RedirectResponse("/sign-in", 303)
    return _render(request, "error.html", status=status, headers=headers, detail=detail, code=status)


@router.get("/")
def overview(
    request: Request,
    node: TheNode,
    caller: Reader,
    tab: str = "all",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Show the node, its counters, alerts, and the latest jobs."""
    chosen = next((one for one in TABS if one.key == tab), TABS[0])
    return _render(request, "overview.html", caller=caller, **_overview(node, chosen, cursor))


@router.get("/fragments/overview")
def overview_fragment(
    request: Request,
    node: TheNode,
    caller: Reader,
    tab: str = "all",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Return the part of the overview that changes."""
    chosen = next((one for one in TABS if one.key == tab), TABS[0])
    return _render(request, "fragments/overview.html", caller=caller, **_overview(node, chosen, cursor))


def _overview(node: Node, tab: Tab, cursor: str | None) -> dict[str, Any]:
    status = health.glance(node)
    with node.database.reading() as session:
        found = queries.page(
            session,
            queries.JobFilter(states=tab.states),
            after=job_routes.parse_cursor(cursor),
            limit=PAGE_ROWS,
        )
        return {
            "glance": status,
            "alerts": [AlertOut.of(one) for one in queries.alerts(session, limit=20)],
            "arriving": [SeriesOut.of(*row) for row in queries.open_series(session, limit=10)],
            "sweeps": sweep_routes.all_of(node),
            "pulls": retrievals.latest(node.database, kind="pull", limit=PULL_ROWS),
            "rows": [JobOut.of(one) for one in found.jobs],
            "tabs": TABS,
            "tab": tab,
            "cursor": cursor,
            "older": "/?" + urlencode({"tab": tab.key, "cursor": str(found.next)}) if found.next else None,
            "query": urlencode({"tab": tab.key} | ({"cursor": cursor} if cursor else {})),
        }


@router.post("/search")
def search(request: Request, node: TheNode, caller: Reader, form: Fields) -> Response:
    """Show the jobs of a series or study UID; the UID travels in the body, for addresses stand in logs."""
    uid = form.get("uid", "").strip()
    valid = bool(uid) and len(uid) <= 64 and set(uid) <= set("0123456789.")
    rows: list[JobOut] = []
    if valid:
        with node.database.reading() as session:
            for wanted in (
                queries.JobFilter(series_instance_uid=uid),
                queries.JobFilter(study_instance_uid=uid),
            ):
                rows = rows or [JobOut.of(one) for one in queries.page(session, wanted, limit=100).jobs]
    return _render(request, "search.html", caller=caller, uid=uid if valid else "", valid=valid, rows=rows)


@router.get("/jobs/{job_id}")
def job_page(request: Request, node: TheNode, caller: Reader, job_id: UUID) -> Response:
    """Show one job."""
    return _render(request, "job.html", caller=caller, job=job_routes.detail(node, str(job_id)))


@router.get("/fragments/jobs/{job_id}")
def job_fragment(request: Request, node: TheNode, caller: Reader, job_id: UUID) -> Response:
    """Return the part of a job's page that changes."""
    return _render(request, "fragments/job.html", caller=caller, job=job_routes.detail(node, str(job_id)))


@router.post("/jobs/{job_id}/actions/{action}")
def job_action(node: TheNode, caller: Operator, job_id: UUID, action: str) -> Response:
    """Do what a button says, and show the job again."""
    if action not in ACTIONS:
        raise HTTPException(404, "there is no such action")
    ACTIONS[action](node, str(job_id), caller.name)
    node.counters.forget()
    return RedirectResponse(f"/jobs/{job_id}", 303)


@router.post("/alerts/{alert_id}/acknowledge", dependencies=[NEEDS_OPERATOR])
def acknowledge(node: TheNode, alert_id: int) -> Response:
    """Take an alert off the page."""
    with node.database.transaction() as session:
        alert = session.get(Alert, alert_id) if 0 < alert_id < 2**63 else None
        if alert is not None and alert.acknowledged_at is None:
            alert.acknowledged_at = now()
    return RedirectResponse("/", 303)


@router.post("/sweeps/{name}/run")
def run_sweep(node: TheNode, caller: Operator, name: sweep_routes.SweepName) -> Response:
    """Let a sweep run now."""
    sweeps.ask(node.settings, node.database, name, caller.name)
    return RedirectResponse("/", 303)


@router.get("/sign-in")
def sign_in_page(request: Request, node: TheNode, caller: Anyone) -> Response:
    """Ask for a token."""
    if caller is not None:
        return RedirectResponse("/", 303)
    return _render(request, "sign_in.html", wrong=False, possible=node.guard.signs_in)


@router.post("/sign-in")
def sign_in(request: Request, node: TheNode, form: Fields) -> Response:
    """Keep a right token in a cookie that scripts cannot read and other sites cannot send."""
    token = form.get("token", "").strip()
    caller: Caller | None = node.guard.of_token(token)
    if caller is None:
        return _render(request, "sign_in.html", status=401, wrong=True, possible=node.guard.signs_in)
    answer = RedirectResponse("/", 303)
    # A proxy that ends TLS says so; a client that lies about it only loses its own cookie on plain HTTP.
    encrypted = "https" in {request.url.scheme, request.headers.get("x-forwarded-proto", "")}
    answer.set_cookie(
        COOKIE, token, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=encrypted
    )
    return answer


@router.post("/sign-out")
def sign_out() -> Response:
    """Forget the cookie."""
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
