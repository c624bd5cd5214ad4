"""Memory that is kept between batches."""

import subprocess
import sys

PROGRAM = """
import resource, sys
import torch
from models.memory import keep_memory

if sys.argv[1] != "none":
    assert keep_memory(all_of_it=sys.argv[1] == "all")

def pages_cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000)  # 200 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(15):
    pages_cleared()
print(sum(pages_cleared() for _ in range(5)) * resource.getpagesize())
"""


def cleared(kept: str) -> int:
    """Return the bytes that the system cleared for five arrays like fifteen before."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, kept], check=True, capture_output=True, text=True, timeout=120
    )
    return int(ended.stdout)


def test_freed_memory_is_used_again_without_being_cleared_by_the_system():
    assert cleared("all") < 1_000_000
    assert cleared("none") > 500_000_000


def test_scoring_gives_back_what_whole_scans_took():
    assert cleared("some") > 500_000_000
