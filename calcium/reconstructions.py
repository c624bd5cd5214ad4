"""Of several reconstructions of one acquisition, the one to score: original axial, soft kernel, thinnest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from calcium.acquisition import functional_groups, values
from calcium.eligibility import REFORMAT_WORDS, EligibilityRules, image_words, is_sharp, screen
from calcium.errors import NotEligibleError, SeriesError
from calcium.frames import text

_ACQUISITION = ("StudyInstanceUID", "FrameOfReferenceUID", "AcquisitionUID", "AcquisitionNumber")


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """One series as a candidate for scoring.

    Parameters
    ----------
    series_instance_uid
        Of the series.
    acquisition
        What series of the same acquisition share: study, frame of reference, acquisition UID and number.
    refusal
        Code why it gets no score, or None.
    reformatted, sharp
        No original slices; a kernel that enhances edges.
    thickness_mm
        Slice thickness, mm; infinite where unknown.
    slices
        Number of frames.
    """

    series_instance_uid: str
    acquisition: tuple[str, ...]
    refusal: str | None
    reformatted: bool
    sharp: bool
    thickness_mm: float
    slices: int

    @classmethod
    def of(cls, headers: Sequence[Dataset], rules: EligibilityRules | None = None) -> Reconstruction:
        """Describe a series by its headers (`calcium.series.read_headers`).

        Raises
        ------
        ValueError
            No headers.
        """
        if not headers:
            raise ValueError("a series without headers is no candidate")
        refusal = None
        try:
            screen(headers, rules)
        except (NotEligibleError, SeriesError) as error:
            refusal = error.code
        first = headers[0]
        groups = functional_groups(first)
        try:
            thickness = max(float(value) for value in values(groups, "SliceThickness")[:1])
        except ValueError:
            thickness = float("inf")
        return cls(
            series_instance_uid=text(first, "SeriesInstanceUID"),
            acquisition=tuple(text(first, keyword) for keyword in _ACQUISITION),
            refusal=refusal,
            reformatted=bool(image_words(first) & REFORMAT_WORDS),
            sharp=is_sharp("\\".join(values(groups, "ConvolutionKernel")[:1])),
            thickness_mm=thickness,
            slices=sum(int(text(header, "NumberOfFrames") or 1) for header in headers),
        )

    @property
    def rank(self) -> tuple[bool, bool, bool, float, int, str]:
        """Sort key, the best first; the UID decides last, so that the choice never depends on the order."""
        return (
            self.refusal is not None,
            self.reformatted,
            self.sharp,
            self.thickness_mm,
            -self.slices,
            self.series_instance_uid,
        )


def choose(candidates: Sequence[Reconstruction]) -> dict[str, str | None]:
    """Tell for each series which one of its acquisition to score.

    Parameters
    ----------
    candidates
        Series of any number of acquisitions.

    Returns
    -------
    dict
        Series Instance UID -> UID of the chosen series of its acquisition (its own, where that is chosen),
        or None where no series of the acquisition is eligible.
    """
    best: dict[tuple[str, ...], Reconstruction] = {}
    for candidate in sorted(candidates, key=lambda one: one.rank):
        best.setdefault(candidate.acquisition, candidate)
    return {
        one.series_instance_uid: None if winner.refusal else winner.series_instance_uid
        for one in candidates
        for winner in (best[one.acquisition],)
    }
