"""A job on a disk that is really full: it waits, leaves nothing behind, and is done when there is room."""

from __future__ import annotations

import subprocess

import peers
import pytest
import report_samples as samples
import worker_rows

from calcium.eligibility import EligibilityRules
from models.pipeline import Outcome
from service.tables import Job, OutputObject
from worker import scoring_job


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB, or skip where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Computed:
    """Stands for the networks."""

    rules = EligibilityRules()

    def score(self, paths, *, careful=False):
        series = samples.series()
        return Outcome("1.2", "scored", None, None, series, samples.result(series), {})


def test_a_job_waits_until_there_is_room(tmp_path, small_disk):
    node = worker_rows.node(
        tmp_path / "home", role="worker", store_dir=small_disk / "store", retry_first_seconds=0.001
    )
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * ((12 << 20) - 8192))
    job_id = worker_rows.waiting_job(node)

    def state():
        with node.database.reading() as session:
            return session.get_one(Job, job_id).state, session.query(OutputObject).count()

    scoring_job.score(node, Computed(), job_id)
    assert state() == ("waiting", 0)
    assert list(node.store.unfinished("outbox", older_than=1e12)) == []
    filler.unlink()
    peers.wait_for(
        lambda: scoring_job.score(node, Computed(), job_id) or state()[0] == "scored", what="a score"
    )
    objects = state()[1]
    assert objects > 0
    assert len(list(node.store.keys("outbox"))) == objects
    node.close()
