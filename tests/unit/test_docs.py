"""The pages say what is true: every setting has its line."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from models.options import ScoringOptions
from service.rules import Match
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


def test_examples_of_settings_are_taken_and_say_what_they_mean(tmp_path: Path) -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "agatston.toml"
    file.write_text('pacs = "PACS@pacs.hospital.example:104"\n' + "\n".join(examples), encoding="utf-8")
    settings = Settings.load({"AGATSTON_CONFIG": str(file), "AGATSTON_HOME": str(tmp_path)})
    names = [one.name for one in settings.destinations]
    assert len(names) == page.count("[[destinations]]")
    (sweep,) = settings.sweeps
    assert sweep.archive in {one.name for one in settings.all_destinations}
    (cardiology,) = (one for one in settings.destinations if one.match.keys)
    assert cardiology.match.keys == ("institution_name", "protocol_name", "risk_group")


def test_every_key_of_a_rule_stands_in_the_table_and_no_other() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    table = page.split("| key | compared with | values |")[1].split("\n\n")[0]
    named = [name for line in table.splitlines()[1:] for name in re.findall(r"`([a-z_]+)`", line.split("|")[1])]
    assert named == list(Match.model_fields)


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
