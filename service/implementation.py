"""Who this implementation is, in associations and in files (PS3.7 annex D.3.3.2, PS3.10 section 7.1)."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

SOFTWARE_VERSION = version("agatston")


def derive_uid(*parts: object) -> str:
    """Return the UID that belongs to `parts`: always the same one.

    A UUID-derived UID (PS3.5 annex B.2): ``2.25.`` and 128 bits as a decimal number, here from SHA-256 of the
    parts instead of a random UUID, with the version (8, free form) and variant bits of RFC 9562 set.
    """
    text = "\x1f".join(str(part) for part in ("agatston", *parts))
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:16], "big")
    number = number & ~(0xF << 76) | (0x8 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return f"2.25.{number}"


IMPLEMENTATION_CLASS_UID = derive_uid("implementation")
IMPLEMENTATION_VERSION_NAME = f"AGATSTON_{SOFTWARE_VERSION}"[:16]  # VR SH
