"""`make bench`: speed and memory as ratios against a peer in the same run, written to docs/benchmarks.md.

Sections run in turn and alone, each several times; the median is quoted, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

from bench_sections import SECTIONS  # noqa: E402 (lies in tests/support)

if TYPE_CHECKING:
    from collections.abc import Sequence


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen sections and write the page."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks.md")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args(argv)
    names = chosen.sections or list(SECTIONS)
    parts = [
        "# Benchmarks",
        (
            f"Made by `make bench` on {time.strftime('%Y-%m-%d', time.gmtime())}: {_machine()}, "
            f"Python {platform.python_version()}. Figures are medians of {chosen.runs} runs (least to "
            "greatest); a ratio compares with a peer in the same run. Other work moves the absolute figures."
        ),
    ]
    for name in names:
        work = Path(tempfile.mkdtemp(prefix=f"agatston-bench-{name}-"))
        print(f"{name} ...", flush=True)  # noqa: T201
        try:
            table = SECTIONS[name](work, chosen.runs)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        parts.append(table)
        print(table, flush=True)  # noqa: T201
    chosen.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
