"""Which series get a score: `screen` refuses from headers, before pixels; `cautions` warns after.

Axial, non-contrast chest CT with the whole heart, slices of at most 3.0 mm (definition of the project; seed,
section "Data"). What only the pixels tell (contrast without a tag, a cut heart) is in `calcium.heart_checks`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.dataset import Dataset

from calcium.acquisition import contrast_agent, functional_groups, values
from calcium.dicom_files import guarded
from calcium.errors import NotEligibleError, SettingsError
from calcium.frames import CT_SOP_CLASSES, text
from calcium.series import CTSeries

THICKNESS_LIMIT_MM = 3.0
"""Thickest slices that are scored without a word (definition of the project), mm."""
THICKNESS_CEILING_MM = 5.0
"""What a site may raise the limit to, mm."""
THICKNESS_FUZZ_MM = 0.01
"""Rounding of a slice thickness that must not decide, mm."""
RECOMMENDED_SLICES = 100
"""Fewer slices are a warning (seed, section "Data")."""
KVP = (120.0, 140.0)
"""Tube voltages of the paper, kV; the 130 HU limit holds for 120 kV."""
AXIAL_COSINE = 0.95
"""Smallest cosine between slice normal and patient axis of a slice that is meant to be axial (18 degrees)."""
SHORTEST_MM = 70.0
"""Shortest scan that can hold a whole heart, mm; adult hearts are 90 to 130 mm high."""
LEAST_SAMPLED = 0.5
"""Smallest part of the scan that slices must cover: thickness / increment."""


class Finding(NamedTuple):
    """A stable code for machines and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class EligibilityRules:
    """What a site may choose.

    Parameters
    ----------
    max_slice_thickness_mm
        Thickest slices that get a score, up to 5.0 mm; above 3.0 mm with a warning.
    min_slices
        Fewest slices that get a score; None: only a warning below 100.

    Raises
    ------
    SettingsError
        Out of range.
    """

    max_slice_thickness_mm: float = THICKNESS_LIMIT_MM
    min_slices: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.max_slice_thickness_mm <= THICKNESS_CEILING_MM:
            raise SettingsError(
                f"max_slice_thickness_mm must be above 0 and at most {THICKNESS_CEILING_MM}, "
                f"not {self.max_slice_thickness_mm}"
            )
        if self.min_slices is not None and self.min_slices < 1:
            raise SettingsError(f"min_slices must be at least 1, not {self.min_slices}")


# Contrast/Bolus Agent is free text: these mean that none was given.
NO_CONTRAST = re.compile(
    r"(?:none|no|non|nil|n|n/?a|0+|-+|false|unknown|unspecified"
    r"|not (?:applied|given|used)|native?|plain|unenhanced"
    r"|(?:no|non|without|w/?o|ohne|sans|sin|senza|sem)[ -]*(?:iv|i\.v\.)?[ -]*"
    r"(?:contrast|kontrast(?:mittel)?|contraste|contrasto|km|cm|agent|dye)?(?: (?:agent|media|medium))?)\.?",
    re.IGNORECASE,
)
# Routes by which contrast does not reach the blood.
NOT_IN_BLOOD = re.compile(r"\b(?:oral|rectal|po|enteric)\b", re.IGNORECASE)
IN_BLOOD = re.compile(
    r"\b(?:iv|i\.v\.?|intravenous|intra-arterial|intraarterial|vein|bolus)\b|[&+]", re.IGNORECASE
)
# Words of descriptions that hint at contrast, and those that deny it.
CONTRAST_HINT = re.compile(
    r"(?:\bc\+|\+c\b|\bw(?:ith)? ?/?(?:iv )?contrast|\bangio|\bcta\b|\bctpa\b|\bce\b"
    r"|\bpulm.* embol|\bvenous|\barterial)",
    re.IGNORECASE,
)
CONTRAST_DENIED = re.compile(
    r"(?:w/?o\b|without|non[- ]?con|\bc-|native?\b|unenhanced|low ?dose)", re.IGNORECASE
)

LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "TOPO", "SCANOGRAM"})
# Words of Image Type (split at spaces and underscores) of images whose values are no longer one slab's mean HU.
PROJECTION_WORDS = frozenset(
    {"MIP", "MINIP", "MAXIP", "VRT", "SSD", "RENDER", "RENDERED", "PROJECTION", "CAPTURE", "SAVE", "SCREEN",
     "SUBTRACTION", "IODINE", "VNC", "MATERIAL", "PERFUSION", "FUSION", "BONEREMOVAL"}
)  # fmt: skip
REFORMAT_WORDS = frozenset({"MPR", "REFORMATTED", "RESAMPLED", "CPR"})
PROJECTION_TECHNIQUES = frozenset(
    {"MAX_IP", "MIN_IP", "VOLUME_RENDER", "SURFACE_RENDER", "CURVED_MPR", "MULTI_ENERGY_PROPORTIONAL_WEIGHTING"}
)
"""Volume Based Calculation Technique (PS3.3 C.8.16.2.1.4) of images that are refused."""
OTHER_BODY_PARTS = frozenset(
    {"ANKLE", "ARM", "BRAIN", "CALCANEUS", "CLAVICLE", "COCCYX", "CSPINE", "ELBOW", "EXTREMITY", "EYE", "FEMUR",
     "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "MAXILLA",
     "ORBIT", "PELVIS", "SINUS", "SKULL", "TOE", "WRIST", "ZYGOMA", "IAC", "TEMPORALBONE", "DENTAL"}
)  # fmt: skip
"""Body Part Examined (PS3.16 annex L) without a heart; abdomen, neck and spine scans may reach it."""


def image_words(header: Dataset) -> frozenset[str]:
    """Return the words of Image Type and Frame Type, upper case, split at spaces and underscores."""
    parts = functional_groups(header)
    types = values(parts, "ImageType") + values(parts, "FrameType")
    return frozenset(word for value in types for word in re.split(r"[ _]+", value.upper()))


def _number(header: Dataset, keyword: str) -> float | None:
    for value in values(functional_groups(header), keyword)[:1]:
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return None


def contrast_in_blood(header: Dataset) -> str | None:
    """Return what says that contrast was given into the blood, or None.

    Contrast/Bolus Agent (PS3.3 C.7.6.4) is free text: "NONE" and the like deny, "ORAL" does not enhance blood.
    """
    agent, route = contrast_agent(header), text(header, "ContrastBolusRoute")
    if agent and not NO_CONTRAST.fullmatch(agent):
        said = f"{agent} {route}"
        if NOT_IN_BLOOD.search(said) and not IN_BLOOD.search(said):
            return None
        return f"a contrast agent is given ({_plain(agent)})"
    if not agent and IN_BLOOD.search(route):
        return f"a contrast route is given ({_plain(route)})"
    volume = _number(header, "ContrastBolusVolume")
    if not agent and volume is not None and volume > 0:
        return f"a contrast volume of {volume:g} ml is given"
    return None


def _plain(value: str) -> str:
    """Return the letters and digits of a free text, cut to 24 characters."""
    return re.sub(r"[^\w .,+/&-]", "", value)[:24]


def _positions(headers: Sequence[Dataset]) -> list[float]:
    """Return z of every frame that tells one, mm, sorted, each once."""
    found = set()
    for header in headers:
        items = header.get("PerFrameFunctionalGroupsSequence") or ()
        places = [item.PlanePositionSequence[0] for item in items if item.get("PlanePositionSequence")] or [
            header
        ]
        for place in places:
            try:
                z = float(values((place,), "ImagePositionPatient")[2])
            except (IndexError, ValueError):
                continue
            if math.isfinite(z):
                found.add(round(z, 2))
    return sorted(found)


def _frames(headers: Sequence[Dataset]) -> int:
    return sum(int(_number(header, "NumberOfFrames") or 1) for header in headers)


def _not_ct(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    for header in headers:
        if text(header, "Modality") != "CT" or text(header, "SOPClassUID") not in CT_SOP_CLASSES:
            modality = text(header, "Modality")
            # A broken header may carry a patient's name here: only what has the form of VR CS is repeated.
            known = re.fullmatch("[A-Z0-9]{1,8}", modality or "")
            return f"modality {modality if known else 'unknown'} is not a CT image"
    return None


def _localizer(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    if any(image_words(header) & LOCALIZER_WORDS for header in headers):
        return "a localizer (scout) image"
    if _frames(headers) == 1:
        return "one image only: a localizer, or a single slice"
    return None


def _projection(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    for header in headers:
        words = image_words(header) & PROJECTION_WORDS
        technique = "".join(values(functional_groups(header), "VolumeBasedCalculationTechnique")[:1])
        if words or technique in PROJECTION_TECHNIQUES:
            return f"derived images ({', '.join(sorted(words)) or technique}), no reconstructed slices"
    return None


def _not_axial(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    for header in headers:
        try:
            a, b, _c, d, e, _f = (
                float(value) for value in values(functional_groups(header), "ImageOrientationPatient")
            )
        except ValueError:
            continue
        if abs(a * e - b * d) < AXIAL_COSINE:
            return "slices are not axial"
    return None


def _body_part(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    for header in headers:
        part = text(header, "BodyPartExamined").upper().replace(" ", "").replace("_", "")
        if part in OTHER_BODY_PARTS:
            return f"the body part is given as {part}"
    return None


def _contrast(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    return next(filter(None, map(contrast_in_blood, headers)), None)


def _too_thick(headers: Sequence[Dataset], rules: EligibilityRules) -> str | None:
    thickest = max((_number(header, "SliceThickness") or 0.0 for header in headers), default=0.0)
    if thickest > rules.max_slice_thickness_mm + THICKNESS_FUZZ_MM:
        return f"slices of {thickest:g} mm are thicker than {rules.max_slice_thickness_mm:g} mm"
    return None


def _gapped(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    z, thickness = _positions(headers), _number(headers[0], "SliceThickness")
    if len(z) < 2 or not thickness:
        return None
    increment = sorted(b - a for a, b in itertools.pairwise(z))[(len(z) - 1) // 2]
    if thickness / increment < LEAST_SAMPLED - 1e-6:
        return f"slices of {thickness:g} mm every {increment:g} mm leave most of the heart unseen"
    return None


def _too_few(headers: Sequence[Dataset], rules: EligibilityRules) -> str | None:
    frames = _frames(headers)
    if rules.min_slices is not None and frames < rules.min_slices:
        return f"{frames} slices are fewer than {rules.min_slices}"
    return None


def _too_short(headers: Sequence[Dataset], _: EligibilityRules) -> str | None:
    z, thickness = _positions(headers), _number(headers[0], "SliceThickness") or 0.0
    if len(z) > 1 and z[-1] - z[0] + thickness < SHORTEST_MM:
        return f"a scan of {z[-1] - z[0] + thickness:.0f} mm cannot hold a whole heart"
    return None


# Code of the reason -> what finds it, in the order in which they are asked.
REASONS: dict[str, Callable[[Sequence[Dataset], EligibilityRules], str | None]] = {
    "not_ct": _not_ct,
    "localizer": _localizer,
    "derived_image": _projection,
    "not_axial": _not_axial,
    "not_chest": _body_part,
    "contrast_enhanced": _contrast,
    "too_thick": _too_thick,
    "gapped": _gapped,
    "too_few_slices": _too_few,
    "too_short": _too_short,
}


def screen(headers: Sequence[Dataset], rules: EligibilityRules | None = None) -> None:
    """Refuse a series that gets no score, from its headers alone.

    What is missing or malformed is passed over here: reading the series names it.

    Parameters
    ----------
    headers
        Of all instances of one series (`calcium.series.read_headers`).
    rules
        The site's choice.

    Raises
    ------
    NotEligibleError
        ``code`` is a key of `REASONS`; the text has the figures that decided. No patient data.
    UnreadableInstanceError
        A header that cannot be walked through.
    """
    if not headers:
        raise NotEligibleError("not_ct", "no instances")
    chosen = rules or EligibilityRules()
    with guarded("a header"):
        uid = text(headers[0], "SeriesInstanceUID") or None
        for code, reason in REASONS.items():
            found = reason(headers, chosen)
            if found:
                raise NotEligibleError(code, found, uid=uid)


# Convolution kernels with edge enhancement, by their makers' names.
SHARP_KERNEL = re.compile(
    r"(?:LUNG|BONE|EDGE|ULTRA|(?:FC|FL)(?:3|5|8)\d|[A-Z][A-Z]?(?:5[5-9]|[6-9]\d)|(?:L|YC|YD|D|E)$).*",
    re.IGNORECASE,
)


def is_sharp(kernel: str) -> bool:
    """Tell whether a Convolution Kernel enhances edges."""
    return bool(SHARP_KERNEL.fullmatch(kernel.split("\\", maxsplit=1)[0].strip()))


def cautions(series: CTSeries, rules: EligibilityRules | None = None) -> tuple[Finding, ...]:
    """Return the warnings that go with a score of this series, most important first.

    Parameters
    ----------
    series
        A series that `screen` let pass.
    rules
        The site's choice.
    """
    del rules  # the limits of a refusal; a warning is due from the method's own limits on
    scan, volume = series.acquisition, series.volume
    thickness, increment = volume.slice_thickness_mm, volume.geometry.spacing_mm[0]
    slices = volume.geometry.shape[0]
    described = " ".join((scan.series_description, scan.protocol, text(series.header, "StudyDescription")))
    words = image_words(series.header)
    found = []
    if thickness > THICKNESS_LIMIT_MM + THICKNESS_FUZZ_MM:
        found.append(
            Finding("thick_slices", f"slices of {thickness:g} mm: the score is validated up to 3.0 mm")
        )
    if increment > thickness * 1.01 + THICKNESS_FUZZ_MM:
        found.append(Finding("gaps", f"slices of {thickness:g} mm every {increment:g} mm leave gaps"))
    if CONTRAST_HINT.search(described) and not CONTRAST_DENIED.search(described):
        found.append(Finding("contrast_hint", "the description hints at contrast, the contrast tag does not"))
    if NOT_IN_BLOOD.search(scan.contrast_agent):
        found.append(Finding("oral_contrast", "contrast was given, but not into the blood"))
    if scan.kvp is None:
        found.append(Finding("kvp_unknown", "the tube voltage is unknown: 130 HU holds for 120 kV"))
    elif not any(abs(scan.kvp - usual) < 0.5 for usual in KVP):
        found.append(Finding("kvp", f"a tube voltage of {scan.kvp:g} kV is neither 120 nor 140 kV"))
    if not scan.kernel:
        found.append(Finding("kernel_unknown", "the convolution kernel is unknown"))
    elif is_sharp(scan.kernel):
        found.append(Finding("sharp_kernel", f"the convolution kernel {scan.kernel} enhances edges and noise"))
    if scan.lossy or series.lossy_encoded:
        found.append(Finding("lossy", "the images were compressed with loss"))
    if words & REFORMAT_WORDS:
        found.append(Finding("reformatted", "axial reformats, no original slices"))
    if slices < RECOMMENDED_SLICES:
        found.append(Finding("few_slices", f"{slices} slices are fewer than {RECOMMENDED_SLICES}"))
    found.extend(Finding("reader", note) for note in series.notes)
    return tuple(found)
