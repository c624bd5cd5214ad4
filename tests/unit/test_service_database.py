"""Migrations and transactions, on both databases."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from calcium.errors import SettingsError
from service import database as service_database
from service.database import (
    Database,
    DatabaseUnavailableError,
    MigrationError,
    _config,
    current,
    head,
    require_current,
    upgrade,
)
from service.tables import Base, Job, Lock, now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.db'}"
    return request.getfixturevalue("new_postgres_database")


@pytest.fixture
def database(url):
    made = Database(url)
    yield made
    made.dispose()


def test_the_migrations_make_the_tables(database):
    with pytest.raises(MigrationError, match="version none"):
        require_current(database)
    upgrade(database)
    upgrade(database)
    require_current(database)
    assert current(database) == head()
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


FIRST_ROWS = (
    "INSERT INTO series VALUES (1, '1.2', '1.2.3', 'CT', 'A', :at, :at, NULL, 0, :at, 'idle', NULL, :at)",
    """
    INSERT INTO jobs (id, series_id, revision, instances_sha256, last_instance_id, state, lane, attempts, kills,
      not_before, created_at, seconds)
    VALUES ('j', 1, 1, 'x', 0, 'scored', 'normal', 1, 0, :at, :at, '{}')
    """,
    "INSERT INTO job_events (id, job_id, event, state, actor, at) VALUES (1, 'j', 'open', 'waiting', 'k', :at)",
)


def test_a_database_of_the_first_version_keeps_its_rows(database):
    with database.engine.begin() as connection:
        command.upgrade(_config(connection), "0001")
    with database.engine.begin() as connection:
        for statement in FIRST_ROWS:
            connection.execute(text(statement), {"at": "2026-11-24 10:00:00+00:00"})
    upgrade(database)
    require_current(database)
    with database.reading() as session:
        job = session.scalars(select(Job)).one()
        assert (job.state, job.forced, job.acquisition, job.suitability) == ("scored", False, None, None)
        assert (job.series.series_instance_uid, session.scalar(text("SELECT count(*) FROM job_events"))) == (
            "1.2.3", 1,
        )  # fmt: skip
    with database.engine.begin() as connection:
        command.downgrade(_config(connection), "0001")
    with database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 1


def test_several_start_at_once(url):
    script = (
        "import sys; from service.database import *; d = Database(sys.argv[1]); upgrade(d); require_current(d)"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]


def test_a_new_file_is_opened_while_another_process_writes_to_it(tmp_path, monkeypatch):
    path = tmp_path / "node.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    done.start()
    opened = Database(f"sqlite:///{path}")
    opened.check()
    opened.dispose()
    done.join()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    held = tmp_path / "held.db"
    writer = sqlite3.connect(held, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(service_database, "BUSY_MS", 100)
    with pytest.raises(DatabaseUnavailableError, match="locked"):
        Database(f"sqlite:///{held}").check()
    other.close()
    writer.close()


def test_a_file_that_is_no_database_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "node.db"
    path.write_bytes(b"no database" * 1000)
    monkeypatch.setattr(service_database.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(DatabaseError, match="not a database"):
        Database(f"sqlite:///{path}").check()


def test_a_transaction_is_whole(database):
    upgrade(database)

    def add_twice() -> None:
        with database.transaction() as session:
            session.add(Lock(name="a", owner="1", until=now()))
            session.flush()
            session.execute(text("INSERT INTO locks (name, owner, until) SELECT name, owner, until FROM locks"))

    with pytest.raises(IntegrityError):
        add_twice()
    with database.reading() as session:
        assert session.scalars(select(Lock)).all() == []


def test_writers_wait_for_each_other_and_readers_for_none(database):
    upgrade(database)
    with database.transaction() as session:
        session.add(Lock(name="a", owner="0", until=now()))

    def add() -> None:
        for _ in range(25):
            with database.transaction() as session:
                row = session.get_one(Lock, "a", with_for_update=True)
                row.owner = str(int(row.owner) + 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    with database.reading() as session:
        session.scalars(select(Lock)).all()  # a reader that stays stops nobody
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with database.reading() as session:
        assert session.get_one(Lock, "a").owner == "100"


def test_sqlite_commits_are_synced(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    with database.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
    database.dispose()


@pytest.mark.parametrize(
    "wrong", ["nonsense", "mysql://u@h/d", "sqlite://", "sqlite:///:memory:", "oracle+oracledb://u@h/d"]
)
def test_a_wrong_url_is_a_settings_error(wrong):
    with pytest.raises(SettingsError, match="AGATSTON_DATABASE_URL"):
        Database(wrong)


def test_an_absent_server_is_unavailable_and_its_password_not_shown():
    database = Database("postgresql+psycopg://someone:hunter2@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailableError) as raised:
        upgrade(database)
    assert "hunter2" not in str(raised.value)
