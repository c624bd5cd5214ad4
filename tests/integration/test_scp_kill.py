"""kill -9 of a receiving `agatston scp` in the middle of a series: what was acknowledged is there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import peers
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from receiving import ct_series, settings
from sqlalchemy import func, select

from service.database import Database, upgrade
from service.store import Store
from service.tables import Instance, Job, Series

KILLS = 2
SERIES, SLICES = 3, 20


@dataclass
class Sender:
    """Sends a series again and again until every slice was acknowledged, as a scanner does."""

    port: int
    instances: list
    acknowledged: set = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while len(self.acknowledged) < len(self.instances) and not self.ended.is_set():
            entity = AE(ae_title="SCANNER")
            entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
            entity.connection_timeout = entity.dimse_timeout = 10
            association = entity.associate("127.0.0.1", self.port)
            for ds in self.instances:
                if not association.is_established:
                    break
                answer = association.send_c_store(ds)
                if "Status" in answer and answer.Status == 0x0000:
                    self.acknowledged.add(ds.SOPInstanceUID)
            if association.is_established:
                association.release()
            self.ended.wait(0.3)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return "" if request.param == "sqlite" else request.getfixturevalue("new_postgres_database")


def test_nothing_acknowledged_is_lost(tmp_path, url):
    port = peers.free_port()
    chosen = settings(tmp_path, dicom_port=port, database_url=url)
    database = Database(chosen.database)
    upgrade(database)
    environment = {
        **os.environ,
        "AGATSTON_HOME": str(tmp_path),
        "AGATSTON_DICOM_PORT": str(port),
        "AGATSTON_DATABASE_URL": url,
        "AGATSTON_SERIES_IDLE_SECONDS": "2",
        "AGATSTON_SERIES_RELEASE_SECONDS": "1",
    }
    command = [sys.executable, "-m", "service.cli", "scp"]
    senders = [Sender(port, ct_series(SLICES, size=128)) for _ in range(SERIES)]
    threads = [threading.Thread(target=sender.run) for sender in senders]
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 (shown when the test fails)
    chance = random.Random(seed)
    started = []

    def start() -> subprocess.Popen:
        started.append(subprocess.Popen(command, env=environment, stderr=log))
        return started[-1]

    with (tmp_path / "scp.log").open("wb") as log, contextlib.ExitStack() as stack:
        stack.callback(lambda: [process.kill() for process in started])
        for sender in senders:
            stack.callback(sender.ended.set)
        process = start()
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            peers.wait_for(lambda: peers.listens(port), seconds=60, what="the SCP")
            time.sleep(chance.uniform(0.05, 0.8))
            process.send_signal(signal.SIGKILL)
            process.wait()
            check(database, Store(chosen.store_root), senders)
            process = start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        check(database, Store(chosen.store_root), senders)

        def one_job_each() -> bool:
            with database.reading() as session:
                # A job on a part of a series is there until the rest, sent again, supersedes it.
                newest = (
                    select(func.max(Instance.id)).where(Instance.series_id == Job.series_id).scalar_subquery()
                )
                whole = select(func.count()).select_from(Job)
                whole = whole.where(Job.state == "waiting", Job.last_instance_id == newest)
                return session.scalar(whole) == SERIES

        peers.wait_for(one_job_each, seconds=30, what="a waiting job for each series")
        process.terminate()
        assert process.wait(40) == 0
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Series)) == SERIES
        for job in session.scalars(select(Job).where(Job.state == "waiting")):
            assert job.last_instance_id >= SLICES
            assert len(job.series.instances) == SLICES
    database.dispose()


def check(database, store, senders):
    """Every acknowledged instance has its row, and its whole file."""
    acknowledged = set().union(*(set(sender.acknowledged) for sender in senders))
    with database.reading() as session:
        found = session.execute(select(Instance.sop_instance_uid, Instance.key))
        keys = {row.sop_instance_uid: row.key for row in found}
    assert acknowledged <= set(keys)
    sent = {ds.SOPInstanceUID: ds for sender in senders for ds in sender.instances}
    for uid, key in keys.items():
        assert pydicom.dcmread(store.path(key)).PixelData == sent[uid].PixelData
