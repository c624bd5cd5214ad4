"""Tables of the objects that the node makes, from two samples of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydicom.charset import python_encoding

from service import scp
from worker.companions.base import SERIES
from worker.conformance.markdown import table
from worker.conformance.network import named, own_syntaxes
from worker.report import patient

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

Objects = Mapping[str, "Dataset"]

# Kind of object -> what it is for.
KINDS = {
    "sr3d": "report of a score; for every destination that does not ask for `sr` alone",
    "sr": "the same report, for archives that refuse the 3D class",
    "not_eligible": "report that says why a series got no score; optional",
    "summary": "picture of the result",
    "seg": "heart box; optional",
    "gsps": "window, heart box and slice scores on the source images; optional",
    "pdf": "the picture as a page; optional",
    "heat_map": "where the score comes from, as numbers; optional",
    "key_objects": "the slices that contribute most; optional",
}
LONGEST = 60  # characters of a value in a table


def blocks(first: Objects, second: Objects) -> dict[str, str]:
    """Return the tables by the names of their places in the page.

    Parameters
    ----------
    first, second
        Objects of two results that differ in everything, by kind (`worker.conformance.sample`).
    """
    return {
        "content": _content(first),
        "own-syntaxes": table(("transfer syntax", "UID"), [named(uid) for uid in own_syntaxes()]),
        "character-sets": _character_sets(),
        "copied": _copied(),
        "series": _series(first),
        **{f"iod-{kind.replace('_', '-')}": attributes(first[kind], second[kind]) for kind in KINDS},
    }


def _content(made: Objects) -> str:
    rows = [(*named(str(uid)), "N", "Y", "Y", "N", "input") for uid in scp.STORAGE_CLASSES]
    kinds: dict[str, list[str]] = {}
    for kind in KINDS:
        kinds.setdefault(str(made[kind].SOPClassUID), []).append(kind)
    for uid, of_class in kinds.items():
        rows.append(
            (*named(uid), "Y", "N", "N", "Y", "; ".join(f"`{kind}`: {KINDS[kind]}" for kind in of_class))
        )
    return table(("SOP class", "UID", "created", "read", "received (SCP)", "sent (SCU)", "use"), rows)


def _character_sets() -> str:
    known = [name for name in python_encoding if name]
    rows = (
        ("read from source images", "none (ISO_IR 6), " + ", ".join(sorted(known))),
        ("written into every object", patient.UTF8),
        ("asked for in C-FIND", "ISO_IR 6: keys hold UIDs, dates and codes only"),
    )
    return table(("where", "Specific Character Set (0008,0005)"), rows)


def _copied() -> str:
    rows = [
        (name, "2", "empty where the source has no value of the form that the VR asks for")
        for name in patient.REQUIRED
    ]
    rows += [(name, "3", "absent where the source has no such value") for name in patient.OPTIONAL]
    return table(("attribute", "type", "otherwise"), rows)


def _series(made: Objects) -> str:
    reports = (kind for kind in KINDS if kind not in SERIES)
    rows = [(f"`{kind}`", *_of_series(made[kind])) for kind in (*reports, *SERIES)]
    return table(("kind", "Modality", "Series Number", "Series Description"), rows)


def _of_series(one: Dataset) -> tuple[str, str, str]:
    return str(one.Modality), str(one.SeriesNumber), str(one.SeriesDescription)


def attributes(first: Dataset, second: Dataset) -> str:
    """Return the top-level attributes of an object but those copied from the source.

    A value that both samples share is fixed; another comes from the source, the result or the settings.
    """
    copied = {*patient.REQUIRED, *patient.OPTIONAL, "SpecificCharacterSet"}
    rows = []
    for tag in sorted({*first.keys(), *second.keys()}):
        one, other = first.get(tag), second.get(tag)
        present = one if one is not None else other
        if present is None or present.keyword in copied:
            continue
        always = one is not None and other is not None
        rows.append((
            f"({tag.group:04X},{tag.element:04X})", present.name, present.VR,
            "always" if always else "where there is one", _value(one, other),
        ))  # fmt: skip
    return table(("tag", "attribute", "VR", "present", "value"), rows)


def _value(one: DataElement | None, other: DataElement | None) -> str:
    if one is None or other is None or one.value != other.value:
        return "of the source, the result or the settings"
    if one.is_empty:
        return "empty"
    if one.VR == "SQ":
        return "; ".join(_item(item) for item in one.value)
    text = str(one.value)
    return f"`{text}`" if len(text) <= LONGEST else f"fixed, {len(text)} characters"


def _item(item: Dataset) -> str:
    value = item.get("CodeValue") or item.get("LongCodeValue")
    if value:
        return f"({value}, {item.CodingSchemeDesignator}, {item.CodeMeaning})"
    return f"an item of {len(item)} attributes"
