"""Signs of life, logs and counters of the node's processes."""

from __future__ import annotations

import json
import logging

import peers
import pytest
from receiving import settings
from rows import database as make_database

from service import logs, metrics
from service.beats import Beat, alive
from service.loops import Loop
from service.tables import ProcessBeat


@pytest.fixture
def database(tmp_path):
    made = make_database(tmp_path)
    yield made
    made.dispose()


def test_a_living_process_is_seen_until_it_ends(database):
    metrics.INSTANCES.labels("stored").inc(3)
    beat = Beat(database, "scp", {"port": 1}, counters=metrics.snapshot)
    beat.start()
    (seen,) = peers.wait_for(lambda: alive(database, "scp"), what="a beat")
    assert seen.name == beat.name
    assert seen.detail["port"] == 1
    assert seen.detail["counters"]["instances"]["agatston_instances_total,stored"] >= 3
    assert alive(database, "worker") == []
    beat.stop()
    with database.reading() as session:
        assert session.get(ProcessBeat, beat.name) is None


def test_a_loop_outlives_its_faults_and_stops():
    calls = []

    def fail():
        calls.append(1)
        raise RuntimeError("boom")

    loop = Loop("test", 0.01, fail)
    loop.start()
    peers.wait_for(lambda: len(calls) > 2, what="a third call")
    loop.stop()
    assert loop.stopping


@pytest.fixture
def restored_logging():
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    levels = {name: logging.getLogger(name).level for name in (*logs.QUIET, "service")}
    logging.getLogger("service").setLevel(logging.NOTSET)  # `agatston doctor`, run by another test, silences it
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_json_logs_are_one_object_a_line(tmp_path, capfd, restored_logging):
    logs.configure(settings(tmp_path, log_format="json"), "scp")
    try:
        json.loads("two\nlines")
    except ValueError:
        logging.getLogger("service.x").exception("it %s", "failed")
    logging.getLogger("pynetdicom").error("a data set")
    (line,) = capfd.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["process"], found["message"]) == ("ERROR", "scp", "it failed")
    assert "JSONDecodeError" in found["exception"]


def test_plain_logs_name_the_process(tmp_path, capfd, restored_logging):
    logs.configure(settings(tmp_path, log_level="WARNING"), "worker")
    logging.getLogger("service.x").info("quiet")
    logging.getLogger("service.x").warning("loud")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("WARNING worker: loud")
