"""`agatston worker` as a process: real brokers, two roles, and its end in order and out of order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import peers
import psutil
import pytest
import report_samples as samples
import worker_rows

from calcium.job import JobState
from service import beats
from service.tables import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.node import WorkerNode

START_SECONDS = 90
JOB_SECONDS = 90
STOP_SECONDS = 25


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return worker_rows.untrained_weights(tmp_path_factory.mktemp("weights"))


@contextlib.contextmanager
def running_worker(
    node: WorkerNode, weights, *arguments: str, **settings: object
) -> Iterator[subprocess.Popen]:
    """Run the command on the home of `node` until it works; ends it, and fails if anything of it is left."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AGATSTON_")}
    environ |= {
        "AGATSTON_HOME": str(node.settings.home),
        "AGATSTON_WEIGHTS": str(weights),
        "AGATSTON_THREADS": "1",
        **{f"AGATSTON_{name.upper()}": str(value) for name, value in settings.items()},
    }
    log = node.settings.home / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "worker", *arguments],
            env=environ, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            family = descendants(process)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            finally:
                for one in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def works(node: WorkerNode, kind: str) -> bool:
    return bool(beats.alive(node.database, kind))


def state(node: WorkerNode, job_id: str) -> str:
    with node.database.reading() as session:
        return session.get_one(Job, job_id).state


@pytest.mark.parametrize("broker", ["embedded", "redis"])
def test_a_hint_reaches_the_worker_and_the_job_ends(broker, weights, tmp_path, request):
    settings = {"broker_url": request.getfixturevalue("redis_url")} if broker == "redis" else {}
    node = worker_rows.node(tmp_path / "home", **settings)
    files = samples.write_source(samples.series(), tmp_path / "source")
    with running_worker(node, weights, **settings) as process:
        peers.wait_for(lambda: works(node, "worker"), seconds=START_SECONDS, what="the worker")
        for lane in ("normal", "urgent"):
            job_id = worker_rows.waiting_job(node, files)
            node.dispatcher.score(job_id, lane)
            peers.wait_for(lambda: state(node, job_id) != "waiting", seconds=JOB_SECONDS, what="the claim")  # noqa: B023
            peers.wait_for(
                lambda: state(node, job_id) == JobState.NOT_ELIGIBLE,  # noqa: B023
                seconds=JOB_SECONDS, what="the end of the job",
            )  # fmt: skip
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
    assert not works(node, "worker")
    assert not works(node, "sender")
    node.close()


def test_reports_are_delivered_by_a_process_of_their_own(weights, tmp_path):
    with peers.storescp(tmp_path / "pacs") as pacs:
        node = worker_rows.node(tmp_path / "home", pacs=pacs.address)
        with running_worker(node, weights, "--queues", "delivery", pacs=pacs.address) as process:
            peers.wait_for(lambda: works(node, "sender"), seconds=START_SECONDS, what="the sender")
            assert not works(node, "worker")
            loaded = [path.path for path in psutil.Process(process.pid).memory_maps()]
            assert not [path for path in loaded if "libtorch" in path], "the sender needs no torch"
            for delivery_id in worker_rows.scored_job(node):
                node.dispatcher.deliver(delivery_id)
            peers.wait_for(lambda: len(list(pacs.folder.iterdir())) == 2, seconds=30, what="both objects")
        node.close()


def test_kill_9_leaves_no_process_behind(weights, tmp_path):
    node = worker_rows.node(tmp_path / "home")
    with running_worker(node, weights) as process:
        peers.wait_for(
            lambda: works(node, "worker") and works(node, "sender"), seconds=START_SECONDS, what="both roles"
        )
        family = descendants(process)
        assert len(family) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        assert alive == []
    node.close()


def test_a_sender_that_dies_is_started_again(weights, tmp_path):
    node = worker_rows.node(tmp_path / "home")
    with running_worker(node, weights):
        peers.wait_for(lambda: works(node, "sender"), seconds=START_SECONDS, what="the sender")
        first = {one.name for one in beats.alive(node.database, "sender")}
        pid = int(next(iter(first)).rpartition(":")[2])
        os.kill(pid, signal.SIGKILL)
        peers.wait_for(
            lambda: {one.name for one in beats.alive(node.database, "sender")} - first,
            seconds=START_SECONDS, what="another sender",
        )  # fmt: skip
    node.close()


def test_wrong_weights_are_told_at_once(tmp_path):
    node = worker_rows.node(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "worker"],
        env={**os.environ, "AGATSTON_HOME": str(tmp_path / "home"), "AGATSTON_WEIGHTS": str(tmp_path / "none")},
        capture_output=True, text=True, timeout=START_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no weights at" in done.stderr
    node.close()


@pytest.mark.real_ct
def test_sigterm_in_the_middle_of_a_job_hands_it_back(weights, tmp_path, real_ct):
    node = worker_rows.node(tmp_path / "home")
    job_id = worker_rows.waiting_job(node, sorted((real_ct / "lidc-0002").glob("*.dcm")))
    with running_worker(node, weights) as process:
        peers.wait_for(lambda: works(node, "worker"), seconds=START_SECONDS, what="the worker")
        node.dispatcher.score(job_id, "normal")
        peers.wait_for(lambda: state(node, job_id) == JobState.RUNNING, seconds=JOB_SECONDS, what="the claim")
        started = time.monotonic()
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
        assert time.monotonic() - started < STOP_SECONDS
    with node.database.reading() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.attempts, job.kills, job.lease_owner) == (JobState.WAITING, 0, 0, None)
    node.close()
