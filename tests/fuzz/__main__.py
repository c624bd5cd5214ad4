"""`python -m tests.fuzz TARGET`: coverage-guided fuzzing of one target by atheris (libFuzzer).

An exception, a crash, an input slower than its bound or more memory than its bound ends it with an artefact.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

os.environ["RUST_BACKTRACE"] = "0"  # a backtrace of each panic that pylibjpeg-rle catches would take the time
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))
INSTRUMENTED = ["calcium", "service.heads", "service.scp", "service.inbox", "service.associations", "pydicom"]
if "port" in sys.argv:
    INSTRUMENTED.append("pynetdicom")

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz.targets import TARGETS

SECONDS_AN_INPUT = 20  # of the clock: other work may run beside
MEMORY_MB = 2048


def main() -> None:
    """Run one target for so many inputs, or for so long."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=0, help="end after so long; 0: never")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--artefacts", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    opened = TARGETS[chosen.target]()
    target = opened.__enter__()
    work = Path(tempfile.mkdtemp(prefix="agatston-corpus-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    atexit.register(opened.__exit__, None, None, None)
    for number, seed in enumerate(target.seeds):
        (work / f"seed-{number}").write_bytes(seed)
        target.run(seed)
    options = [
        f"-runs={chosen.inputs}", f"-max_total_time={chosen.seconds}", f"-seed={chosen.seed}",
        f"-max_len={target.longest}", f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={chosen.artefacts}/{chosen.target}-", "-print_final_stats=1",
        "-len_control=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(work)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
