"""Objects beside the report, by kind: each from a series, its result and the report's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.companions.summary import build_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

# Kind (service.tables.OutputObject.kind) -> builder(series, result, config)
BUILDERS: dict[str, Callable[..., Dataset]] = {"summary": build_summary}
