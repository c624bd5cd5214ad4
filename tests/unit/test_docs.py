"""The pages say what is true: every setting has its line."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from models.options import ScoringOptions
from service.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_setting_stands_in_the_table_and_no_other() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    table = page.split("## Settings")[1].split("\n## ")[0]
    named = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`([a-z_]+)`", line.split("|")[1:2][0] if "|" in line else "")
    }
    scoring = {field.name for field in fields(ScoringOptions)} - {"rules"} | {
        "max_slice_thickness_mm",
        "min_slices",
    }
    assert named == set(Settings.model_fields) | scoring


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
