"""`agatston passcode`: the hash of a passcode, for the users of a peer."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

from service.identity import MAX_FIELD_BYTES, hash_passcode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments: none, for others could see a passcode among them."""
    del parser


def run(args: Namespace) -> int:
    """Read a passcode from the terminal or the first line of standard input, and print its hash."""
    del args
    passcode = getpass.getpass("passcode: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not 0 < len(passcode.encode()) <= MAX_FIELD_BYTES:
        print(f"a passcode has 1 to {MAX_FIELD_BYTES} bytes", file=sys.stderr)
        return 2
    print(hash_passcode(passcode))
    return 0
