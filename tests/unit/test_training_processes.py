"""Processes that end with the one that made them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Prints the pids of the pool's processes, then waits for ever.
MAKER = """
import os, time
from models.training.processes import pool
if __name__ == "__main__":
    with pool(2) as workers:
        running = [workers.submit(os.getpid) for _ in range(8)]
        print(*{one.result() for one in running}, flush=True)
        time.sleep(600)
"""


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_leave_when_their_maker_is_killed(tmp_path: Path):
    script = tmp_path / "maker.py"
    script.write_text(MAKER)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environ
    ) as maker:
        assert maker.stdout is not None
        workers = [int(word) for word in maker.stdout.readline().split()]
        assert workers
        assert all(map(_alive, workers))
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    limit = time.monotonic() + 30
    try:
        while any(map(_alive, workers)):
            assert time.monotonic() < limit, "the workers stayed"
            time.sleep(0.05)
    finally:
        for worker in filter(_alive, workers):
            os.kill(worker, signal.SIGKILL)
