"""`agatston api` as a process: starts without a database, stops in order; and its figures for Prometheus."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import httpx
import peers
import pytest
import rows
from api_client import serving
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from service import jobs, metrics
from service.settings import Settings
from service.tables import ProcessBeat, Result


@contextlib.contextmanager
def api_process(home, **variables):
    port = peers.free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AGATSTON_")},
        "AGATSTON_HOME": str(home), "AGATSTON_HTTP_PORT": str(port), **variables,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "api"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        peers.wait_for(lambda: process.poll() is not None or peers.listens(port), seconds=60, what="the API")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def test_sigterm_ends_it_in_order(tmp_path):
    database = rows.database(tmp_path)

    def beats():
        with database.reading() as session:
            return session.scalars(select(ProcessBeat.kind)).all()

    with api_process(tmp_path) as (process, url):
        assert httpx.get(url + "/health/live").json() == {"status": "up"}
        peers.wait_for(lambda: beats() == ["api"], what="its beat")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert beats() == [], "a process that ends in order leaves no sign of life"
        said = process.stderr.read()
        assert "Traceback" not in said
    database.dispose()


def test_without_migrations_it_is_live_and_says_what_is_missing(tmp_path):
    with api_process(tmp_path) as (_, url):
        assert httpx.get(url + "/health/live").status_code == 200
        answer = httpx.get(url + "/health/ready")
        assert answer.status_code == 503
        assert "version none" in answer.json()["checks"][0]["text"]


def test_without_a_database_it_is_live_and_answers_503(tmp_path):
    gone = f"postgresql://nobody:secret@127.0.0.1:{peers.free_port()}/agatston"
    with api_process(tmp_path, AGATSTON_DATABASE_URL=gone) as (process, url):
        assert httpx.get(url + "/health/live").status_code == 200
        answers = [httpx.get(url + path) for path in ("/health/ready", "/api/v1/jobs", "/", "/api/v1/status")]
        assert [one.status_code for one in answers] == [503] * 4
        metrics = httpx.get(url + "/metrics")
        assert metrics.status_code == 200
        assert "agatston_database_up 0.0" in metrics.text
        process.terminate()
        process.wait(20)
        said = process.stderr.read() + "".join(one.text for one in answers)
        assert "secret" not in said, "a password never reaches a log or an answer"


def test_a_taken_port_is_a_fault_of_the_settings(tmp_path):
    with api_process(tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        environment = {**os.environ, "AGATSTON_HOME": str(tmp_path), "AGATSTON_HTTP_PORT": port}
        command = [sys.executable, "-m", "service.cli", "api"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "AGATSTON_HTTP_PORT" in done.stderr


def figures(api):
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for sample in family.samples
    }


def test_what_an_scp_counted_is_told(tmp_path):
    database = rows.database(tmp_path)
    metrics.INSTANCES.labels("disk_full").inc(2)
    metrics.STORE_SECONDS.observe(0.003)
    with database.transaction() as session:
        rows.beats(session, "scp")
        session.get_one(ProcessBeat, "scp@test:1").detail = {"counters": metrics.snapshot()}
    with serving(Settings(home=tmp_path), database) as api:
        told = figures(api)
    assert told["agatston_instances_total", "disk_full", "scp@test:1"] >= 2
    assert told["agatston_store_seconds_bucket", "0.005", "scp@test:1"] >= 1
    assert told["agatston_store_seconds_count", "scp@test:1"] >= 1
    database.dispose()


def test_figures_follow_the_rows(tmp_path):
    database = rows.database(tmp_path)
    with database.transaction() as session:
        rows.beats(session, "scp", "worker")
        rows.add_job(session, agatston=412.0)  # before the API began: no event of its time
        waiting = rows.add_job(session, state="waiting").id
        rows.add_object(session, rows.add_job(session, state="failed"), "refused")
    with serving(Settings(home=tmp_path), database) as api:
        before = figures(api)
        assert before["agatston_jobs", "waiting"] == 1
        assert before["agatston_jobs", "scored"] == 1
        assert before["agatston_jobs", "quarantined"] == 0, "a state without jobs is told as 0"
        assert before["agatston_deliveries", "refused"] == 1
        assert before["agatston_instances_rows",] == 6
        assert before["agatston_process_seen_seconds", "scp", "scp@test:1"] < 30
        assert before["agatston_queue_age_seconds",] >= 0
        assert ("agatston_results_total", "high") not in before

        claimed = jobs.claim(database, waiting, "worker@test:1")
        result = rows.result("", 37.0)
        jobs.finish_scored(database, claimed, result, [], [], seconds={"localise": 0.7, "regress": 0.2})
        time.sleep(2.1)  # gauges are kept for two seconds
        after = figures(api)
        assert after["agatston_jobs", "scored"] == 2
        assert after["agatston_results_total", "moderate"] == 1
        assert after["agatston_job_events_total", "claim"] == 1
        assert after["agatston_job_events_total", "score"] == 1
        assert after["agatston_stage_seconds_sum", "localise"] == pytest.approx(0.7)
        assert after["agatston_stage_seconds_bucket", "0.25", "regress"] == 1
        again = figures(api)
        assert again["agatston_results_total", "moderate"] == 1, "an event is counted once"
    with database.reading() as session:
        assert len(session.scalars(select(Result)).all()) == 2
    database.dispose()
