"""The supervisor: restarts what dies, stops in order, and takes its children along when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import peers
import psutil
import pytest

from calcium.errors import SettingsError
from service import supervisor
from service.supervisor import Supervisor, only_one

# Stands for `python -m service.supervised COMMAND`: a child that watches its parent as the real ones do.
CHILD = """
import os, signal, sys, time
from service.supervisor import watch_parent
watch_parent()
what, log = sys.argv[1], open(os.environ["CHILD_LOG"], "a", buffering=1)
log.write(f"{what} start {os.getpid()}\\n")
if what == "wrong":
    sys.exit(2)
if what == "dying":
    sys.exit(1)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    def stop(*_):
        log.write(f"{what} stop {os.getpid()}\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
while True:
    time.sleep(0.05)
"""

PARENT = """
import os, signal, sys
from service import supervisor
real, child = supervisor.subprocess.Popen, os.environ["CHILD"]
supervisor.subprocess.Popen = lambda command, **kw: real([sys.executable, child, command[-1]], **kw)
made = supervisor.Supervisor(sys.argv[1:], os.environ)
signal.signal(signal.SIGTERM, made.stop)
sys.exit(made.run())
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The children's log; their script takes the place of the real one."""
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setenv("CHILD_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("CHILD", str(tmp_path / "child.py"))
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    (tmp_path / "log").touch()
    yield tmp_path / "log"
    for line in lines(tmp_path / "log", "start"):
        if psutil.pid_exists(int(line[2])):
            os.kill(int(line[2]), signal.SIGKILL)


def lines(log, word):
    return [line.split() for line in log.read_text().splitlines() if line.split()[1] == word]


@pytest.fixture
def started(log):
    """Start a supervisor process for commands."""
    processes = []

    def start(*commands):
        processes.append(subprocess.Popen([sys.executable, "-c", PARENT, *commands]))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_dead_child_is_started_again(log, started):
    process = started("steady")
    first = int(peers.wait_for(lambda: lines(log, "start"), what="a child")[0][2])
    os.kill(first, signal.SIGKILL)
    peers.wait_for(lambda: len(lines(log, "start")) == 2, what="the second child")
    process.terminate()
    assert process.wait(20) == 0
    assert [line[0] for line in lines(log, "stop")] == ["steady"]


def test_children_stop_in_order_with_their_supervisor(log, started):
    process = started("first", "second")
    peers.wait_for(lambda: len(lines(log, "start")) == 2, what="two children")
    time.sleep(0.2)  # their handlers
    process.terminate()
    assert process.wait(20) == 0
    assert {line[0] for line in lines(log, "stop")} == {"first", "second"}


def test_children_follow_a_killed_supervisor(log, started):
    process = started("first", "second")
    children = peers.wait_for(
        lambda: len(lines(log, "start")) == 2 and lines(log, "start"), what="two children"
    )
    time.sleep(0.2)
    process.kill()
    process.wait()
    pids = [int(line[2]) for line in children]
    peers.wait_for(lambda: not any(map(psutil.pid_exists, pids)), what="the children's end")


def test_a_child_with_wrong_settings_ends_all(log, started):
    process = started("steady", "wrong")
    assert process.wait(20) == 2
    assert len([line for line in lines(log, "start") if line[0] == "wrong"]) == 1


def test_restarts_wait_longer_each_time(log, started):
    started("dying")
    peers.wait_for(lambda: len(lines(log, "start")) == 3, what="three starts")
    time.sleep(1)
    assert len(lines(log, "start")) == 3  # the next one waits for 2 s


def test_a_child_that_does_not_stop_is_killed(log, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.5)
    real = subprocess.Popen
    child = str(log.parent / "child.py")
    monkeypatch.setattr(
        supervisor.subprocess, "Popen", lambda command, **kw: real([sys.executable, child, command[-1]], **kw)
    )
    made = Supervisor(["stubborn"], os.environ)
    thread = threading.Thread(target=made.run)
    thread.start()
    (line,) = peers.wait_for(lambda: lines(log, "start"), what="the child")
    made.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert not psutil.pid_exists(int(line[2]))


def test_one_node_a_home(tmp_path):
    with only_one(tmp_path), pytest.raises(SettingsError, match="another `agatston up`"):
        only_one(tmp_path).__enter__()
    with only_one(tmp_path):
        pass
