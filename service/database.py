"""The database: one engine a process, short transactions, and migrations that may start twice at once.

PostgreSQL and SQLite run the same code. SQLite is opened with a write-ahead log that is synced at each commit,
because C-STORE answers 0x0000 only after the commit.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from calcium.errors import AgatstonError, ResourcesError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_MS = 30_000  # SQLite: wait so long for another process's write
RETRY_SECONDS = 0.02
PRIMARY_CODE = 0xFF  # the part of an extended SQLite result code that says what it is
LOCK_TIMEOUT_MS = 10_000  # PostgreSQL: a transaction of ours is short; one that waits longer is a fault
STATEMENT_TIMEOUT_MS = 60_000
CONNECT_SECONDS = 10
MIGRATION_LOCK = 0x41474154  # "AGAT", the key of PostgreSQL's advisory lock

# What the database raises when it is gone, restarts, or is locked for too long; worth another try.
UNAVAILABLE = (OperationalError, InterfaceError)


class DatabaseUnavailableError(ResourcesError):
    """The database does not answer."""

    code = "database_unavailable"


class MigrationError(AgatstonError):
    """The database is not at the version that this program needs."""

    code = "migrations"


class Database:
    """One engine and its sessions.

    Parameters
    ----------
    url
        SQLAlchemy's URL (service.settings.Settings.database).

    Raises
    ------
    SettingsError
        The URL does not parse, or names another kind of database.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Give a session that commits when the block ends, and rolls back when it raises.

        On SQLite it holds the only write lock from its first statement (BEGIN IMMEDIATE): keep the block short.
        """
        with self._sessions.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that sees one state of the database, blocks no writer and commits nothing."""
        with self._sessions() as session:
            if self.is_sqlite:
                session.connection(execution_options={"begin": "BEGIN DEFERRED"})
            yield session

    def check(self) -> None:
        """Ask the database for an answer.

        Raises
        ------
        DatabaseUnavailableError
            There is none.
        """
        try:
            with self.reading() as session:
                session.execute(text("SELECT 1"))
        except UNAVAILABLE as error:
            shown = make_url(self.url).render_as_string(hide_password=True)
            raise DatabaseUnavailableError(f"the database {shown} does not answer: {error.orig}") from error

    def dispose(self) -> None:
        """Close the connections, e.g. in a child after a fork."""
        self.engine.dispose()


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError(
            "AGATSTON_DATABASE_URL is not a URL: write postgresql://user:password@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database is None or parsed.database == ":memory:":
            raise SettingsError("AGATSTON_DATABASE_URL: SQLite needs a file, for several processes share it")
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False})
        event.listen(engine, "connect", _open_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        options = (
            f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} "
            f"-c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_MS}"
        )
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            connect_args={"options": options, "connect_timeout": CONNECT_SECONDS, "client_encoding": "utf8"},
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=20,
        )
    raise SettingsError(f"AGATSTON_DATABASE_URL: {backend} is not supported; use postgresql or sqlite")


def _open_sqlite(connection: Any, record: object) -> None:  # noqa: ARG001 (SQLAlchemy's signature)
    # sqlite3 would begin transactions by itself, deferred; _begin_sqlite does it instead.
    connection.isolation_level = None
    for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _log_ahead(connection)


def _log_ahead(connection: Any) -> None:
    """Switch a SQLite file to its write-ahead log.

    While another process writes to a new file, SQLite refuses the switch at once, whatever its busy timeout: it
    takes both for readers that want to write, and would wait for each other.
    """
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another wrote between: no wait helps.
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN IMMEDIATE"))


def migrations_folder() -> Path:
    """Return the folder of the migrations: AGATSTON_MIGRATIONS, or ``alembic`` beside the packages.

    Raises
    ------
    SettingsError
        It is in neither place.
    """
    named = os.environ.get("AGATSTON_MIGRATIONS")
    folder = Path(named) if named else Path(__file__).resolve().parents[1] / "alembic"
    if not (folder / "env.py").is_file():
        raise SettingsError(
            f"no migrations in {folder}: set AGATSTON_MIGRATIONS to the repository's alembic folder"
        )
    return folder


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """Return the version that this program needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(database: Database) -> str | None:
    """Return the version that the database has; None before the first migration."""
    with database.reading() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def upgrade(database: Database) -> None:
    """Bring the database to the version that this program needs; a second caller at the same time waits.

    Raises
    ------
    DatabaseUnavailableError
        The database does not answer.
    """
    database.check()
    with database.engine.begin() as connection:  # SQLite: BEGIN IMMEDIATE, which is the lock
        if not database.is_sqlite:
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
        command.upgrade(_config(connection), "head")


def require_current(database: Database) -> None:
    """Check that the migrations ran.

    Raises
    ------
    MigrationError
        The database has another version.
    """
    database.check()
    have, need = current(database), head()
    if have != need:
        raise MigrationError(
            f"the database is at version {have or 'none'}, this program needs {need}: run `agatston up`, "
            "or `alembic upgrade head`"
        )
