"""``agatston doctor``: check settings, database, broker, weights, device and peers, and say what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import sys
import textwrap

from calcium.errors import SettingsError
from service import checks
from service.checks import Check
from service.settings import Settings

COLOURS = {"OK": "\033[32m", "WARN": "\033[33m", "FAIL": "\033[31m"}
INDENT = 27  # columns of verdict and name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Check everything; exit code 1 where something fails."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("service").setLevel(logging.CRITICAL)
    found: list[Check] = []

    def note(check: Check) -> None:
        found.append(check)
        if not args.json:
            print(_line(check, colour=sys.stdout.isatty()), flush=True)

    try:
        settings = Settings.load()
    except SettingsError as error:
        note(Check("settings", "FAIL", str(error), "correct the variable or the line of agatston.toml"))
    else:
        note(Check("settings", "OK", f"AE title {settings.ae_title}"))
        for check in checks.run_all(settings):
            note(check)
    failed = [one for one in found if one.verdict == "FAIL"]
    if args.json:
        print(json.dumps({"ok": not failed, "checks": [dataclasses.asdict(one) for one in found]}, indent=2))
    else:
        warned = sum(one.verdict == "WARN" for one in found)
        print(f"{len(found)} checks: {len(failed)} failed, {warned} warnings")
    return 1 if failed else 0


def _line(check: Check, *, colour: bool) -> str:
    verdict = f"{COLOURS[check.verdict]}{check.verdict:4}\033[0m" if colour else f"{check.verdict:4}"
    width = max(40, shutil.get_terminal_size((110, 24)).columns - INDENT)
    lines = textwrap.wrap(check.text, width, break_on_hyphens=False, break_long_words=False) or [""]
    if check.remedy:
        lines += textwrap.wrap(f"-> {check.remedy}", width, break_on_hyphens=False, break_long_words=False)
    return f"{verdict}  {check.name:19}  " + ("\n" + " " * INDENT).join(lines)
