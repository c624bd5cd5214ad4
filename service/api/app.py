"""The FastAPI application: routes, errors without internals, security headers, static files."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from calcium.errors import AgatstonError, TransientError
from service import jobs, sweeps
from service.api import exports
from service.api.access import NEEDS_OPERATOR
from service.api.node import Node
from service.api.routes import archive, health, pages
from service.api.routes import jobs as job_routes
from service.api.routes import node as node_routes
from service.api.routes import retrievals as retrieval_routes
from service.api.routes import sweeps as sweep_routes
from service.api.schemas import ErrorOut
from service.api.security import AccessLog, SecurityHeaders
from service.database import UNAVAILABLE, Database
from service.retrievals import SweepBusyError
from service.scu import PeerRefusedError
from service.settings import Settings

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
STATUS_OF_ERROR: dict[type[Exception], int] = {
    jobs.NoSuchJobError: 404,
    jobs.NotAllowedError: 409,
    exports.NoScoreError: 409,
    sweeps.NoSuchSweepError: 404,
    SweepBusyError: 409,
    PeerRefusedError: 502,
    TransientError: 503,
}


def create_app(settings: Settings, database: Database | None = None) -> FastAPI:
    """Make the application; the database need not answer yet.

    Parameters
    ----------
    settings
        Of the node.
    database
        Shared with the caller, who then closes it; None: opened here and closed at shutdown.
    """
    node = Node(settings, database or Database(settings.database))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        node.close()
        if database is None:
            node.database.dispose()

    app = FastAPI(
        title="Agatston node",
        version=node.version,
        description="Predicted Agatston scores of screening chest CT. Research use, not for diagnosis.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # served below, to operators
        lifespan=lifespan,
        responses={code: {"model": ErrorOut} for code in (400, 401, 403, 404, 409, 422, 503)},
    )
    app.state.node = node
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog)  # the outermost
    app.include_router(health.router)
    app.include_router(job_routes.router)
    app.include_router(node_routes.router)
    app.include_router(archive.router)
    app.include_router(retrieval_routes.router)
    app.include_router(sweep_routes.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")

    @app.get("/api/v1/openapi.json", include_in_schema=False, dependencies=[NEEDS_OPERATOR])
    def openapi() -> dict[str, Any]:
        return app.openapi()

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(AgatstonError, _own_error)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, _database_gone)
    return app


def _answer(request: Request, status: int, code: str, detail: str, **headers: str) -> Response:
    """Say what went wrong: as JSON to programs, as a page to browsers."""
    if pages.wants_page(request):
        return pages.error_page(request, status, detail, headers)
    return JSONResponse(ErrorOut(code=code, detail=detail).model_dump(), status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(
        request, error.status_code, f"http_{error.status_code}", str(error.detail), **(error.headers or {})
    )


async def _invalid(request: Request, error: Exception) -> Response:
    """Name the wrong fields, but repeat nothing of what was sent."""
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'][:3])[:80]}: {one['type']}" for one in error.errors()[:10]
    )
    return _answer(request, 422, "invalid", wrong)


async def _own_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AgatstonError)
    status = next((code for kind, code in STATUS_OF_ERROR.items() if isinstance(error, kind)), 500)
    if status == 500:
        log.error("request failed: %s", error)
        return _answer(request, 500, error.code, "the request failed; the log says why")
    return _answer(request, status, error.code, str(error))


async def _database_gone(request: Request, error: Exception) -> Response:
    log.warning("the database does not answer: %s", type(error).__name__)
    return _answer(request, 503, "database_unavailable", "the database does not answer")
