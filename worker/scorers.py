"""The networks of a worker process: loaded once, shared by its threads."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calcium.errors import ResourcesError
from models.options import ScoringOptions
from models.pipeline import Outcome, score_files
from models.scoring import Scorer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from calcium.eligibility import EligibilityRules


class Scorers:
    """A scorer as the settings say, and a careful one for series that ran out of memory with it.

    When memory runs out, the runner of the networks already halves its batches and goes to the CPU
    (models.device); the careful one starts there, for what runs out elsewhere.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._careful: Scorer | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls) -> Scorers:
        """Load the weights that the settings name.

        Raises
        ------
        SettingsError
            A setting is wrong.
        WeightsError
            The weights are absent or differ from their manifest.
        """
        return cls(Scorer.load(ScoringOptions.read()))

    @property
    def details(self) -> dict[str, Any]:
        """What the table of processes tells about us."""
        identity, options = self._scorer.weights.identity, self._scorer.options
        return {
            "weights": f"{identity.name} {identity.version}",
            "weights_sha256": identity.sha256,
            "device": str(options.torch_device),
        }

    @property
    def rules(self) -> EligibilityRules:
        """The site's choice of what gets a score."""
        return self._scorer.options.rules

    def score(self, paths: Sequence[Path], *, careful: bool = False) -> Outcome:
        """Return the outcome of the files of one series.

        Raises
        ------
        ResourcesError
            Out of memory.
        """
        try:
            return score_files(paths, self._careful_scorer() if careful else self._scorer)
        except MemoryError as error:
            raise ResourcesError("out of memory while reading or scoring the series") from error

    def _careful_scorer(self) -> Scorer:
        with self._lock:
            if self._careful is None:
                options = replace(self._scorer.options, device="cpu", batch=1)
                self._careful = Scorer(self._scorer.weights, options)
            return self._careful
