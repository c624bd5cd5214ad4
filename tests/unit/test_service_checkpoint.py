"""The association's own thread and a quick sender never wait for each other."""

from __future__ import annotations

import sys
import threading

import pytest

from service.dimse.association import _Checkpoint

REQUESTS = 5000
SECONDS = 60


@pytest.fixture
def _hurried():
    """Let threads take turns as often as they do on a machine that has more work than cores."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_hurried")
def test_many_quick_requests_all_come_to_their_turn():
    ended, done = threading.Event(), []

    class Reactor(threading.Thread):
        def run(self):
            while not ended.is_set():
                self.checkpoint.wait()

    def ask():
        for number in range(REQUESTS):
            reactor.checkpoint.clear()
            reactor.checkpoint.set()
            done.append(number)

    reactor = Reactor(daemon=True)
    reactor.checkpoint = _Checkpoint(reactor)
    reactor.start()
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    assert len(done) == REQUESTS
    ended.set()
    reactor.join(SECONDS)
