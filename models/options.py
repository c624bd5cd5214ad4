"""Settings of scoring, from the environment or the TOML file (calcium.configuration)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from calcium import configuration
from calcium.eligibility import EligibilityRules
from calcium.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How series are scored.

    Parameters
    ----------
    weights
        AGATSTON_WEIGHTS: a folder or the name of a bundled set; empty for the bundled default.
    device
        AGATSTON_DEVICE: ``cpu``, ``cuda``, or ``auto`` for a GPU where torch finds one.
    threads
        AGATSTON_THREADS: torch threads; 0 leaves the choice to torch.
    batch
        AGATSTON_BATCH: slices at once; halved when memory runs out.
    heat_map
        AGATSTON_HEAT_MAP: whether results show where the score comes from.
    rules
        AGATSTON_MAX_SLICE_THICKNESS_MM and AGATSTON_MIN_SLICES.
    """

    weights: str = ""
    device: str = "auto"
    threads: int = 0
    batch: int = 16
    heat_map: bool = True
    rules: EligibilityRules = field(default_factory=EligibilityRules)

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise SettingsError(f"AGATSTON_DEVICE must be one of {', '.join(DEVICES)}, not {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("AGATSTON_DEVICE=cuda: torch finds no CUDA device; use auto or cpu")
        if self.threads < 0 or self.batch < 1:
            raise SettingsError("AGATSTON_THREADS must not be negative, AGATSTON_BATCH at least 1")

    @property
    def torch_device(self) -> torch.device:
        """The device to compute on."""
        wanted = self.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(wanted)

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> ScoringOptions:
        """Return the options that the settings give.

        Raises
        ------
        SettingsError
            A value has another form or is out of range.
        """
        values = configuration.read(environ)
        rules = {
            name: _typed(values, name, kind)
            for name, kind in (("max_slice_thickness_mm", float), ("min_slices", int))
            if name in values
        }
        kinds: dict[str, Callable[[Any], Any]] = {
            "weights": str, "device": str, "threads": int, "batch": int, "heat_map": _boolean,
        }  # fmt: skip
        given = {name: _typed(values, name, kind) for name, kind in kinds.items() if name in values}
        return cls(**given, rules=EligibilityRules(**rules))


def _boolean(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    return words[str(value).lower()]


def _typed(values: Mapping[str, Any], name: str, kind: Callable[[Any], Any]) -> Any:
    try:
        return kind(values[name])
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"AGATSTON_{name.upper()} cannot be {values[name]!r}") from error
