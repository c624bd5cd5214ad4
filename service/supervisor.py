"""`agatston up`: starts the node's processes, restarts those that die, and takes them along when it ends.

A child never outlives its supervisor, not even one that was killed by -9: each holds the read end of a pipe
whose write end only the supervisor has, and ends when that end is closed (service.supervised).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from calcium.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

PARENT_FD = "AGATSTON_PARENT_FD"  # variable: the pipe's descriptor in the child
BACKOFF_FIRST, BACKOFF_CAP = 0.5, 30.0  # seconds before a dead child is started again
STABLE_SECONDS = 60.0  # a child that ran so long starts its back-off anew
STOP_SECONDS = 30.0  # graceful stop; then the children are killed
EXIT_USAGE = 2  # a child that says its settings are wrong is not started again (docs/decisions/0003)


def watch_parent() -> None:
    """End this process gracefully when its supervisor is gone.

    Without a supervisor this does nothing.
    """
    descriptor = os.environ.pop(PARENT_FD, None)
    if descriptor is None:
        return
    pipe = int(descriptor)
    os.set_inheritable(pipe, False)

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(pipe, 1)  # returns only when every write end is closed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)  # the graceful stop hangs

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the lock of a home folder, so that no second node works on it.

    Raises
    ------
    SettingsError
        Another `agatston up` holds it.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(f"AGATSTON_HOME: another `agatston up` works in {home}") from None
        yield


@dataclass
class _Child:
    command: str
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    start_at: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs `agatston COMMAND` for each command until `stop` or a signal.

    Parameters
    ----------
    commands
        Names of commands; the last one is stopped first.
    environment
        Of the children.
    """

    def __init__(self, commands: Sequence[str], environment: Mapping[str, str]) -> None:
        self._children = [_Child(command) for command in commands]
        self._environment = dict(environment)
        self._stopping = threading.Event()
        self._read_end, self._write_end = os.pipe()  # not inheritable: the write end stays here alone
        self.fault: str | None = None

    def stop(self, *_: object) -> None:
        """Let `run` end; also the handler of SIGTERM and SIGINT."""
        self._stopping.set()

    def run(self, while_running: Callable[[], None] | None = None) -> int:
        """Run until stopped; return 0, or the code of a child whose settings are wrong.

        Parameters
        ----------
        while_running
            Called ten times a second.
        """
        code = 0
        while not self._stopping.is_set():
            for child in self._children:
                code = self._tend(child) or code
            if code:
                break
            if while_running is not None:
                while_running()
            self._stopping.wait(0.1)
        self._stop_children()
        return code

    def _tend(self, child: _Child) -> int:
        moment = time.monotonic()
        if child.process is None:
            if moment >= child.start_at:
                self._start(child)
            return 0
        returned = child.process.poll()
        if returned is None:
            return 0
        child.process = None
        if returned == EXIT_USAGE:
            self.fault = child.command
            return EXIT_USAGE
        if moment - child.started_at >= STABLE_SECONDS:
            child.failures = 0
        child.failures += 1
        wait = min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** (child.failures - 1))
        child.start_at = moment + wait
        log.error("%s ended with %d; it starts again in %.1f s", child.command, returned, wait)
        return 0

    def _start(self, child: _Child) -> None:
        child.process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-m", "service.supervised", child.command],
            env={**self._environment, PARENT_FD: str(self._read_end)},
            pass_fds=(self._read_end,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops them in order
        )
        child.started_at = time.monotonic()
        log.debug("%s started, pid %d", child.command, child.process.pid)

    def _stop_children(self) -> None:
        running = [child for child in reversed(self._children) if child.process is not None]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("%s did not stop within %.0f s and is killed", child.command, STOP_SECONDS)  # noqa: TRY400
                _kill_group(child.process.pid)
                child.process.wait()
        os.close(self._read_end)
        os.close(self._write_end)


def _kill_group(pid: int) -> None:
    # The child leads a session: its own children (a worker's pool) die with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
