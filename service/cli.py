"""The command `agatston`: finds a command's module by name and runs it (docs/decisions/0003)."""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAULT, EXIT_USAGE, EXIT_UNAVAILABLE = 1, 2, 3

# command -> (module, one line of help); a module is imported only when its command is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("service.commands.up", "run the whole node on embedded defaults"),
    "demo": ("worker.commands.demo", "send a simulated scan through a node and print the result"),
    "score": ("models.commands.score", "score series on disk, without a node"),
    "scp": ("service.commands.scp", "receive series by C-STORE"),
    "api": ("service.commands.api", "serve the status page and API"),
    "worker": ("worker.commands.worker", "score jobs and deliver reports"),
    "migrate": ("service.commands.migrate", "bring the database to this program's version"),
    "doctor": ("service.commands.doctor", "check settings, database, broker, weights, device and peers"),
    "find": ("service.commands.find", "ask an archive which series it holds"),
    "pull": ("service.commands.pull", "fetch series from an archive and score them"),
    "sweep": ("service.commands.sweep", "list the sweeps of the settings, or run one now"),
    "job": ("service.commands.job", "list, re-run, cancel or force a job"),
    "passcode": ("service.commands.passcode", "hash a passcode, for the users of a peer"),
    "phantom": ("models.commands.phantom", "write simulated scans with known reference scores"),
    "train": ("models.commands.train", "train networks"),
    "evaluate": ("models.commands.evaluate", "compare predicted with reference scores"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agatston",
        description="Predicted Agatston scores of screening chest CT, as a DICOM node. Research use only.",
        epilog="\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agatston {version('agatston')}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see: agatston COMMAND --help")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 fault, 2 usage or settings, 3 peer unavailable."""
    chosen = _parser().parse_args(argv)
    module_name, help_line = COMMANDS[chosen.command]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        print(
            f"agatston {chosen.command} needs {error.name}, which is not installed: "
            "pip install 'agatston[worker]' (training: 'agatston[train]')",
            file=sys.stderr,
        )
        return EXIT_USAGE
    from calcium.errors import AgatstonError, SettingsError, TransientError  # noqa: PLC0415 (keeps --help fast)

    parser = argparse.ArgumentParser(prog=f"agatston {chosen.command}", description=help_line)
    module.add_arguments(parser)
    try:
        return int(module.run(parser.parse_args(chosen.arguments)))
    except SettingsError as error:
        print(f"agatston {chosen.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except TransientError as error:
        print(f"agatston {chosen.command}: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except AgatstonError as error:
        print(f"agatston {chosen.command}: {error}", file=sys.stderr)
        return EXIT_FAULT
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
