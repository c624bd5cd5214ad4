"""Attributes of the DICOM JSON Model (PS3.18 Annex F), read by keyword from what a server wrote."""

from __future__ import annotations

from typing import Any

from pydicom.datadict import tag_for_keyword

MAX_TEXT = 1024  # characters; PS3.5 section 6.2: a description has 64


def tag_of(keyword: str) -> str:
    """Return the name of an attribute in JSON, e.g. ``0020000D`` (PS3.18 section F.2.2)."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword of PS3.6")
    return f"{tag:08X}"


def values_of(item: object, keyword: str) -> list[Any]:
    """Return the values of an attribute; an empty list where it is absent, empty or malformed."""
    element = item.get(tag_of(keyword)) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def text_of(item: object, keyword: str) -> str:
    """Return the values of an attribute as one text as DICOM writes it; empty where there is none."""
    texts = [str(one) for one in values_of(item, keyword) if isinstance(one, str | int | float)]
    return "".join(letter for letter in "\\".join(texts)[:MAX_TEXT] if letter.isprintable()).strip()


def number_of(item: object, keyword: str) -> int | None:
    """Return an unsigned number; None where there is none."""
    text = text_of(item, keyword)
    return int(text) if text.isascii() and text.isdigit() else None
