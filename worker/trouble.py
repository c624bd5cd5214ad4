"""Unexpected errors in words that are safe to log."""

from __future__ import annotations

import traceback
from pathlib import Path


def where(error: BaseException) -> str:
    """Return an exception's type and the places it went through, without its text.

    The text of an unexpected exception may cite a value of the data set, and so a patient's name.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__
