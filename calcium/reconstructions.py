"""Of several reconstructions of one acquisition, the one to score: original axial, soft kernel, thinnest.

Series are of one acquisition where study, frame of reference, acquisition UID and number are the same and their
times of acquisition overlap: many scanners number the acquisitions of each series from 1. What tells too little
is an acquisition of its own; better two scores of one scan than none of another.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from calcium.acquisition import functional_groups, values
from calcium.dicom_files import guarded
from calcium.eligibility import REFORMAT_WORDS, EligibilityRules, image_words, is_sharp, screen
from calcium.errors import NotEligibleError, SeriesError
from calcium.frames import text

_ACQUISITION = ("StudyInstanceUID", "FrameOfReferenceUID", "AcquisitionUID", "AcquisitionNumber")
TIME_SLACK_SECONDS = 1.0
"""Rounding of acquisition times that must not part reconstructions of one scan."""
# PS3.5 section 6.2, VR TM and DT: the time of day of either; a zone that follows it parts no scans.
_TIME_OF_DAY = re.compile(r"(?:\d{8})?(\d\d)(\d\d)(\d\d(?:\.\d{1,6})?)")


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
    window
        First and last time of acquisition, seconds of the day, or None where no header tells it.
    """

    series_instance_uid: str
    acquisition: tuple[str, ...]
    refusal: str | None
    reformatted: bool
    sharp: bool
    thickness_mm: float
    slices: int
    window: tuple[float, float] | None = None

    @classmethod
    def of(cls, headers: Sequence[Dataset], rules: EligibilityRules | None = None) -> Reconstruction:
        """Describe a series by its headers (`calcium.series.read_headers`).

        Raises
        ------
        ValueError
            No headers.
        UnreadableInstanceError
            A header that cannot be walked through.
        """
        if not headers:
            raise ValueError("a series without headers is no candidate")
        with guarded("a header"):
            return cls._of(headers, rules)

    @classmethod
    def _of(cls, headers: Sequence[Dataset], rules: EligibilityRules | None) -> Reconstruction:
        refusal = None
        try:
            screen(headers, rules)
        except (NotEligibleError, SeriesError) as error:
            refusal = error.code
        first = headers[0]
        groups = functional_groups(first)
        try:
            thickness = float("".join(values(groups, "SliceThickness")[:1]))
        except ValueError:
            thickness = math.inf
        uid = text(first, "SeriesInstanceUID")
        window = _window(headers)
        study, frame, *numbers = (text(first, keyword) for keyword in _ACQUISITION)
        told = bool(frame) and (any(numbers) or window is not None)
        return cls(
            series_instance_uid=uid,
            acquisition=(study, frame, *numbers) if told else (study, frame, *numbers, uid),
            refusal=refusal,
            reformatted=bool(image_words(first) & REFORMAT_WORDS),
            sharp=is_sharp("\\".join(values(groups, "ConvolutionKernel")[:1])),
            thickness_mm=thickness if math.isfinite(thickness) and thickness > 0 else math.inf,
            slices=sum(int(text(header, "NumberOfFrames") or 1) for header in headers),
            window=window,
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
    chosen: dict[str, str | None] = {}
    for same in acquisitions(candidates):
        winner = min(same, key=lambda one: one.rank)
        for one in same:
            chosen[one.series_instance_uid] = None if winner.refusal else winner.series_instance_uid
    return chosen


def acquisitions(candidates: Iterable[Reconstruction]) -> list[list[Reconstruction]]:
    """Part candidates by acquisition; the order in which they are given does not matter."""

    def key(one: Reconstruction) -> tuple[tuple[str, ...], bool]:
        return one.acquisition, one.window is None

    found: list[list[Reconstruction]] = []
    for _, group in itertools.groupby(sorted(candidates, key=key), key=key):
        # Sorted by their start, windows that overlap follow each other.
        end = -math.inf
        for one in sorted(group, key=lambda one: one.window or (0.0, 0.0)):
            start, stop = one.window or (0.0, 0.0)
            if start > end + TIME_SLACK_SECONDS:
                found.append([])
            found[-1].append(one)
            end = max(end, stop)
    return found


def _window(headers: Sequence[Dataset]) -> tuple[float, float] | None:
    times = [
        3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
        for header in headers
        for value in _acquired(header)
        if (found := _TIME_OF_DAY.match(value))
    ]
    return (min(times), max(times)) if times else None


def _acquired(header: Dataset) -> tuple[str, ...]:
    """Return when an instance was acquired, as written: of its whole, or of its first and last frame."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    contents = [item.get("FrameContentSequence") or () for item in (*frames[:1], *frames[-1:])]
    parts = (header, *(content[0] for content in contents if content))
    for keyword in ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"):
        found = tuple(value for part in parts for value in values((part,), keyword)[:1])
        if found:
            return found
    return ()
