"""Logs of every process: one line an event, plain or JSON, and never a word about a patient."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings

# Libraries that log what they were given: data set elements, PDUs, SQL parameters, headers.
QUIET = {
    "pynetdicom": logging.CRITICAL,
    "pydicom": logging.ERROR,
    "sqlalchemy": logging.WARNING,
    "alembic": logging.WARNING,
    "kombu": logging.ERROR,
    "amqp": logging.ERROR,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "python_multipart": logging.ERROR,
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, and the traceback where there is one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": self._kind,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(settings: Settings, kind: str) -> None:
    """Set up logging of this process.

    Parameters
    ----------
    kind
        What the process is: scp, api, worker, up.
    """
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter(kind))
    else:
        form = logging.Formatter(f"%(asctime)s %(levelname)-7s {kind}: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        form.converter = time.gmtime
        handler.setFormatter(form)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
