"""Tables of the report's content: its tree, its codes, and the reasons and limitations it may name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.uid import UID

import calcium
import models
from calcium.eligibility import REASONS
from worker.conformance.markdown import table
from worker.report import codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

    from worker.conformance.objects import Objects

# Nodes of the tree whose children are told once for the whole page.
TREES = {"tree": "sr3d", "tree-not-eligible": "not_eligible"}
FINDINGS = {"Finding", "Caution"}  # calls that make a limitation or, in a check of the heart, a reason
REFUSALS = {"NotEligibleError"}
HEART_REFUSALS = {"contrast_in_blood", "heart_cut"}  # findings that refuse (calcium.heart_checks.check_heart)

DETAILS = {"contrast_enhanced": "contrast_in_blood"}  # reason -> the function that words it


def blocks(made: Objects) -> dict[str, str]:
    """Return the tables by the names of their places in the page."""
    limitations, reasons = _told()
    head = ("code in the report", "code in the API", "words")
    return {
        **{name: _tree(made[kind]) for name, kind in TREES.items()},
        "boxes": _geometry(made),
        "private-codes": _private_codes(),
        "codes": _codes(made),
        "limitations": table(
            head, [(_report_code(code), f"`{code}`", words) for code, words in limitations.items()]
        ),
        "reasons": table(head, [(_report_code(code), f"`{code}`", words) for code, words in reasons.items()]),
    }


def _report_code(code: str) -> str:
    concept = codes.limitation(code, "-")
    return f"`{concept.value}`"


def _code(item: Dataset) -> tuple[str, str, str]:
    """Return value, scheme and meaning of a code sequence's item."""
    value = item.get("CodeValue") or item.get("LongCodeValue")
    return str(value), str(item.CodingSchemeDesignator), str(item.CodeMeaning)


def _shown(item: Dataset) -> str:
    return "({}, {}, {})".format(*_code(item))


def _tree(document: Dataset) -> str:
    rows = list(_rows(document, 0))
    head = ("nesting", "relationship", "value type", "concept name", "times", "value, template")
    return table(head, rows)


def _rows(item: Dataset, depth: int) -> Iterator[tuple[str, ...]]:
    yield (
        ">" * depth, item.get("RelationshipType", ""), item.ValueType,
        _shown(item.ConceptNameCodeSequence[0]), "", _content(item),
    )  # fmt: skip
    yield from _children(item, depth + 1)


def _children(item: Dataset, depth: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of children; those of one form are told once."""
    forms: dict[tuple[object, ...], int] = {}
    kept = []
    for child in item.get("ContentSequence", ()):
        form = _form(child)
        if form not in forms:
            kept.append((form, child))
        forms[form] = forms.get(form, 0) + 1
    for form, child in kept:
        first, *rest = _rows(child, depth)
        times = "1" if forms[form] == 1 else "1-n"
        yield (*first[:4], times, first[5])
        yield from rest


def _form(item: Dataset) -> tuple[object, ...]:
    """Return what makes two siblings the same kind of node."""
    name = _code(item.ConceptNameCodeSequence[0])
    if item.ValueType == "CONTAINER":
        return (name, *(_form(child) for child in item.get("ContentSequence", ())))
    return (name, item.ValueType)


def _content(item: Dataset) -> str:
    match item.ValueType:
        case "CONTAINER":
            templates = [f"TID {one.TemplateIdentifier}" for one in item.get("ContentTemplateSequence", ())]
            return ", ".join(templates)
        case "NUM":
            return "unit " + _shown(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0])
        case "CODE":
            return _shown(item.ConceptCodeSequence[0])
        case "SCOORD" | "SCOORD3D":
            return str(item.GraphicType)
        case "IMAGE":
            return ", ".join(UID(one.ReferencedSOPClassUID).name for one in item.ReferencedSOPSequence)
        case _:
            return ""


def _geometry(made: Objects) -> str:
    """Return how the two classes tell the heart box."""
    rows = []
    for kind in ("sr3d", "sr"):
        found = [item for item in _walk(made[kind]) if item.ValueType in {"SCOORD", "SCOORD3D"}]
        value_types = sorted({f"{item.ValueType} {item.GraphicType}" for item in found})
        rows.append((f"`{kind}`", made[kind].SOPClassUID.name, ", ".join(value_types), str(len(found))))
    return table(("kind", "SOP class", "coordinates of the heart box", "items"), rows)


def _walk(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence", ()):
        yield from _walk(child)


def _private_codes() -> str:
    found: dict[str, str] = {}
    for value in vars(codes).values():
        for code in value.values() if isinstance(value, dict) else (value,):
            if getattr(code, "scheme_designator", None) == codes.SCHEME:
                found[code.value] = code.meaning
    return table(("code value", "meaning"), [(f"`{value}`", meaning) for value, meaning in found.items()])


def _codes(made: Objects) -> str:
    """Return every standard code that stands in the content of any document."""
    found: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for document in made.values():
        for item in _walk(document) if "ContentSequence" in document else ():
            for element in item:
                for code in element.value if element.VR == "SQ" and "CodeSequence" in element.keyword else ():
                    value, scheme, meaning = _code(code)
                    if scheme != codes.SCHEME:
                        uses = found.setdefault((scheme, value), (meaning, set()))[1]
                        uses.add("name" if element.keyword == "ConceptNameCodeSequence" else "value")
    # Levels and qualities that the samples do not have.
    for code in (*codes.RISK_LEVELS.values(), codes.QUALITY_GOOD, codes.QUALITY_POOR):
        found.setdefault((code.scheme_designator, code.value), (code.meaning, set()))[1].add("value")
    rows = [
        (f"`{value}`", scheme, meaning, ", ".join(sorted(uses)))
        for (scheme, value), (meaning, uses) in sorted(found.items())
    ]
    return table(("code value", "scheme", "meaning", "used as"), rows)


def _told() -> tuple[dict[str, str], dict[str, str]]:
    """Return the limitations and the reasons that the source can tell, code -> words with their blanks.

    The codes stand in calls all over the core and the scoring; reading the source finds each, whatever path of
    the program makes it.
    """
    limitations: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for path in _sources():
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) == 2):
                continue
            literal, words = call.args
            if not (isinstance(literal, ast.Constant) and isinstance(literal.value, str)):
                continue
            refuses = call.func.id in REFUSALS or literal.value in HEART_REFUSALS
            if call.func.id in FINDINGS | REFUSALS:
                (reasons if refuses else limitations).setdefault(literal.value, _words(words))
    for code, finder in REASONS.items():
        texts = _returned(finder.__name__) or _returned(DETAILS.get(code, finder.__name__))
        reasons[code] = "; ".join(texts)
    return dict(sorted(limitations.items())), dict(sorted(reasons.items()))


def _sources() -> list[Path]:
    folders = (Path(package.__path__[0]) for package in (calcium, models))
    return sorted(path for folder in folders for path in folder.glob("*.py"))


def _words(node: ast.expr) -> str:
    """Return the text that an expression makes, an ellipsis for each figure in it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part) for part in parts)
        case _:
            return "..."


def _returned(function: str) -> list[str]:
    """Return the texts that a function of calcium.eligibility returns."""
    tree = ast.parse((Path(calcium.__path__[0]) / "eligibility.py").read_text(encoding="utf-8"))
    (body,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    returned = (
        node.value for node in ast.walk(body) if isinstance(node, ast.Return) and node.value is not None
    )
    texts = (_words(value) for value in returned if isinstance(value, ast.Constant | ast.JoinedStr))
    return [text for text in texts if text != "..."]
