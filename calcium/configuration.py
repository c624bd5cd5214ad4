"""One source of settings for all rooms: environment variables ``AGATSTON_*`` over one optional TOML file.

A variable ``AGATSTON_HTTP_PORT`` and a TOML key ``http_port`` are the same setting; the variable wins. The file
is ``AGATSTON_CONFIG``, else ``agatston.toml`` in ``AGATSTON_HOME``, where it exists. TOML tables
(``[[destinations]]``) stay nested.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calcium.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "AGATSTON_"
DEFAULT_HOME = "~/.local/share/agatston"


def home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of all state: ``AGATSTON_HOME`` or its default, made absolute, not created."""
    environ = os.environ if environ is None else environ
    return Path(environ.get(PREFIX + "HOME") or DEFAULT_HOME).expanduser().absolute()


def read(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return all settings that are set, by their lower-case names without prefix.

    Raises
    ------
    SettingsError
        The TOML file is named but absent, or does not parse.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(PREFIX + "CONFIG")
    path = Path(named).expanduser() if named else home(environ) / "agatston.toml"
    values: dict[str, Any] = {}
    if path.is_file():
        try:
            values.update(tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not valid TOML: {error}") from error
    elif named:
        raise SettingsError(f"AGATSTON_CONFIG names {path}, which does not exist")
    for name, value in environ.items():
        if name.startswith(PREFIX) and name != PREFIX + "CONFIG" and value != "":
            values[name[len(PREFIX) :].lower()] = value
    return values
