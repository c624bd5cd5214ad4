"""A reader of our reports that shares no code with what writes them: plain pydicom and the standard's codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset


def code(item: Dataset) -> tuple[str, str]:
    """Return (scheme, value) of a code sequence's item; 17 digits and more stand in Long Code Value."""
    return item.CodingSchemeDesignator, item.get("CodeValue") or item.LongCodeValue


def name(item: Dataset) -> tuple[str, str]:
    return code(item.ConceptNameCodeSequence[0])


def children(item: Dataset) -> list[Dataset]:
    return list(item.get("ContentSequence", ()))


def number(item: Dataset) -> float:
    """Return the exact value of a NUM item."""
    value = item.MeasuredValueSequence[0]
    exact, shown = float(value.FloatingPointValue), float(value.NumericValue)
    assert abs(exact - shown) <= 0.00501, "the shown value is not the exact one, rounded"
    return exact


def unit(item: Dataset) -> tuple[str, str]:
    return code(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0])


def walk(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in children(item):
        yield from walk(child)


@dataclass
class Group:
    """A measurement group, its items by concept."""

    identifier: str
    tracking_uid: str
    numbers: dict[tuple[str, str], float] = field(default_factory=dict)
    units: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    codes: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    modifiers: dict[tuple[str, str], dict[tuple[str, str], Any]] = field(default_factory=dict)
    texts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    coordinates: list[Dataset] = field(default_factory=list)

    @classmethod
    def of(cls, container: Dataset) -> Group:
        group = cls("", "")
        for item in children(container):
            concept = name(item)
            match item.ValueType:
                case "NUM":
                    assert concept not in group.numbers, f"{concept} stands twice in one group"
                    group.numbers[concept] = number(item)
                    group.units[concept] = unit(item)
                    group.modifiers[concept] = {
                        name(child): code(child.ConceptCodeSequence[0])
                        for child in children(item)
                        if child.ValueType == "CODE"
                    }
                case "CODE":
                    group.codes[concept] = code(item.ConceptCodeSequence[0])
                case "TEXT":
                    group.texts.setdefault(concept, []).append(item.TextValue)
                case "IMAGE" if concept == ("DCM", "130401"):  # visual explanation
                    group.pictures.append(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
                case "IMAGE":
                    group.images.append(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
                case "SCOORD" | "SCOORD3D":
                    group.coordinates.append(item)
                case "UIDREF" if concept == ("DCM", "112040"):
                    group.tracking_uid = item.UID
        (group.identifier,) = group.texts.get(("DCM", "112039"), [""])
        return group


@dataclass
class Report:
    """What a report says."""

    groups: list[Group]
    observer: dict[str, str]
    quality: tuple[str, str] | None
    limitations: list[tuple[str, str]]
    comments: list[str]

    @property
    def totals(self) -> Group:
        (group,) = [one for one in self.groups if one.identifier == "Coronary calcium"]
        return group

    @property
    def box(self) -> Group:
        (group,) = [one for one in self.groups if one.identifier == "Heart box"]
        return group

    @property
    def slices(self) -> list[Group]:
        return [one for one in self.groups if one.identifier.startswith("Slice at z")]


def read(document: Dataset) -> Report:
    """Read a report."""
    assert name(document) == ("DCM", "126000")
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups, limitations, comments = [], [], []
    quality = None
    observer = {}
    for item in children(document):
        if name(item) == ("DCM", "126010"):
            groups = [Group.of(child) for child in children(item) if name(child) == ("DCM", "125007")]
        elif name(item) == ("UMLS", "C0034375"):
            for child in children(item):
                if name(child) == ("99AGATSTON", "LIMITATION"):
                    limitations.append(code(child.ConceptCodeSequence[0]))
                elif name(child) == ("DCM", "122739"):
                    quality = code(child.ConceptCodeSequence[0])
                elif child.ValueType == "TEXT":
                    comments.append(child.TextValue)
        elif item.ValueType in {"TEXT", "UIDREF"}:
            observer[name(item)[1]] = item.get("TextValue") or item.UID
    return Report(groups, observer, quality, limitations, comments)
