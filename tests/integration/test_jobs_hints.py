"""Hints over real brokers: lost ones cost a minute, a broker that is down costs nothing else."""

from __future__ import annotations

import json
import subprocess
import time

import peers
import pytest
import redis
from receiving import ct_series, receiver, settings
from rows import beats

from service.dispatch import Dispatcher


@pytest.fixture
def dispatcher(request):
    made = []

    def make(chosen):
        made.append(Dispatcher(chosen))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_redis_that_was_emptied_gets_the_hints_again(tmp_path, redis_url, dispatcher):
    broker = redis.Redis.from_url(redis_url)
    broker.flushall()
    with receiver(
        tmp_path,
        broker_url=redis_url,
        series_idle_seconds=0.2,
        series_release_seconds=0.1,
        redispatch_seconds=0.5,
    ) as node:
        node.keeper._dispatcher = dispatcher(node.settings)
        node.send(ct_series(2))
        peers.wait_for(lambda: node.keeper.round() or broker.llen("normal"), what="a hint")
        message = json.loads(broker.lindex("normal", 0))
        assert message["headers"]["task"] == "agatston.score"
        broker.flushall()
        with node.database.transaction() as session:
            beats(session, "worker")
        time.sleep(0.6)
        node.keeper.round()
        assert broker.llen("normal") == 1
    broker.close()


def test_a_redis_that_dies_and_returns_empty(tmp_path, dispatcher):
    port = peers.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = [peers.program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    quick = {"series_idle_seconds": 0.2, "series_release_seconds": 0.1, "redispatch_seconds": 0.5}
    with receiver(tmp_path, broker_url=url, **quick) as node:
        hints = node.keeper._dispatcher = dispatcher(node.settings)
        with peers.running(command, port=port) as server:
            node.send(ct_series(2))
            peers.wait_for(lambda: node.keeper.round() or hinted(url), what="a hint")
            server.kill()
            server.wait()
            assert not hints.score("job", "normal")
        with peers.running(command, port=port):
            with node.database.transaction() as session:
                beats(session, "worker")
            peers.wait_for(lambda: node.keeper.round() or hinted(url), what="the hint again")


def hinted(url):
    with redis.Redis.from_url(url) as broker:
        return broker.llen("normal")


def test_lanes_are_queues(tmp_path, redis_url, dispatcher):
    broker = redis.Redis.from_url(redis_url)
    broker.flushall()
    hints = dispatcher(settings(tmp_path, broker_url=redis_url))
    assert hints.score("job", "urgent")
    assert hints.score("job", "normal")
    assert hints.deliver(7)
    assert {name: broker.llen(name) for name in ("urgent", "normal", "delivery")} == {
        "urgent": 1, "normal": 1, "delivery": 1,
    }  # fmt: skip
    broker.close()


def test_a_broker_that_is_down_is_only_logged(tmp_path, dispatcher, caplog):
    hints = dispatcher(settings(tmp_path, broker_url=f"redis://127.0.0.1:{peers.free_port()}/0"))
    started = time.monotonic()
    assert not hints.score("job", "normal")
    assert not hints.ping()
    assert time.monotonic() - started < 20
    assert "did not take the hint" in caplog.text


def test_a_broker_that_hangs_is_only_logged(tmp_path, dispatcher):
    """A stopped Redis accepts connections and answers nothing."""
    port = peers.free_port()
    command = [peers.program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with peers.running(command, port=port, cwd=tmp_path) as server:
        hints = dispatcher(settings(tmp_path / "home", broker_url=f"redis://127.0.0.1:{port}/0"))
        assert hints.score("first", "normal")
        subprocess.run(["kill", "-STOP", str(server.pid)], check=True)
        started = time.monotonic()
        assert not hints.score("second", "normal")
        assert time.monotonic() - started < 25
        subprocess.run(["kill", "-CONT", str(server.pid)], check=True)
        peers.wait_for(lambda: hints.score("third", "normal"), what="a broker that answers again")


def test_the_embedded_broker_keeps_messages_in_the_home(tmp_path, dispatcher):
    chosen = settings(tmp_path)
    hints = dispatcher(chosen)
    assert hints.ping()
    assert hints.score("job", "urgent")
    (message,) = (chosen.home / "broker" / "queue").iterdir()
    assert message.name.endswith("urgent.msg")
