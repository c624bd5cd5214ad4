"""``python -m worker.conformance``: renew the tables of docs/conformance.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from worker.conformance import network, objects, report, sample, web
from worker.conformance.markdown import renew


def blocks() -> dict[str, str]:
    """Return every generated part of the page by its name."""
    first, second = sample.objects(0), sample.objects(1)
    return network.blocks() | web.blocks() | objects.blocks(first, second) | report.blocks(first)


def main() -> int:
    """Write the page anew; 1 where ``--check`` finds it out of date."""
    parser = argparse.ArgumentParser(prog="python -m worker.conformance", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, default=Path("docs/conformance.md"))
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    chosen = parser.parse_args()
    page = chosen.page.read_text(encoding="utf-8")
    current = renew(page, blocks())
    if chosen.check:
        return int(page != current)
    chosen.page.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
