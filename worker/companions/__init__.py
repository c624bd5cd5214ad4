"""Objects beside the report, by kind: each from a series, its result and the report's configuration.

A builder raises ``NoPlanesError`` where this source or result has nothing to show in that form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.companions.base import NoPlanesError
from worker.companions.heat_map import build_heat_map
from worker.companions.key_objects import build_key_objects
from worker.companions.marks import build_marks
from worker.companions.pdf import build_pdf
from worker.companions.segmentation import build_segmentation
from worker.companions.summary import build_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

__all__ = ["BUILDERS", "NoPlanesError"]

# Kind (service.tables.OutputObject.kind) -> builder(series, result, config)
BUILDERS: dict[str, Callable[..., Dataset]] = {
    "summary": build_summary,
    "seg": build_segmentation,
    "gsps": build_marks,
    "key_objects": build_key_objects,
    "pdf": build_pdf,
    "heat_map": build_heat_map,
}
