"""Markdown: tables, and pages whose tables stand between markers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BLOCK = re.compile(r"<!-- begin (?P<name>[a-z0-9-]+) -->\n.*?<!-- end (?P=name) -->", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; a bar in a cell is escaped, a line feed is a space."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def renew(page: str, blocks: Mapping[str, str]) -> str:
    """Return a page with each of its blocks as it should be now.

    Raises
    ------
    ValueError
        The page lacks a block, or has one that is not known.
    """
    named = [found["name"] for found in BLOCK.finditer(page)]
    if sorted(named) != sorted(blocks):
        differing = sorted(set(named) ^ set(blocks)) or "one stands twice"
        raise ValueError(f"blocks of the page and of the code differ: {differing}")

    def current(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- begin {name} -->\n{blocks[name]}\n<!-- end {name} -->"

    return BLOCK.sub(current, page)
