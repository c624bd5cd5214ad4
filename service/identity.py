"""User identity of an association: user name and passcode against salted hashes (PS3.7 section D.3.3.7).

The item travels in the clear: it is worth something over TLS, or against mistakes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.settings import User

USERNAME_AND_PASSCODE = 2  # User-Identity-Type, PS3.7 Table D.3-14
# Cost of one check: 16 MiB and some 50 ms; N, r and p as RFC 7914 section 2 names them.
COST, BLOCK, PARALLEL = 1 << 14, 8, 1
SALT_BYTES, HASH_BYTES = 16, 32
MAX_FIELD_BYTES = 256  # of a name or passcode; longer ones are not hashed
HASH_PATTERN = re.compile(r"scrypt\$(?P<salt>[0-9A-Za-z+/]{22}==)\$(?P<hash>[0-9A-Za-z+/]{43}=)\Z")
_one_at_a_time = threading.Lock()  # so that many associations at once take the memory of one check


def hash_passcode(passcode: str) -> str:
    """Return what the settings keep of a passcode: ``scrypt$SALT$HASH``, both in base 64."""
    salt = os.urandom(SALT_BYTES)
    parts = (salt, _hash(passcode.encode(), salt))
    return "$".join(["scrypt", *(base64.b64encode(part).decode("ascii") for part in parts)])


def _hash(passcode: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(passcode, salt=salt, n=COST, r=BLOCK, p=PARALLEL, dklen=HASH_BYTES)


def _matches(passcode: bytes, kept: str) -> bool:
    found = HASH_PATTERN.match(kept)
    assert found is not None  # the settings have checked it
    with _one_at_a_time:
        made = _hash(passcode, base64.b64decode(found["salt"]))
    return hmac.compare_digest(made, base64.b64decode(found["hash"]))


_NOBODY = hash_passcode(base64.b64encode(os.urandom(SALT_BYTES)).decode("ascii"))


def is_user(identity: Any, users: Sequence[User]) -> bool:
    """Tell whether an association's identity is that of one of the users.

    Parameters
    ----------
    identity
        pynetdicom's user identity item; None where the association has none.
    users
        Who may come in. An unknown name costs as much time as a wrong passcode.
    """
    if identity is None or identity.user_identity_type != USERNAME_AND_PASSCODE:
        return False
    name, passcode = bytes(identity.primary_field or b""), bytes(identity.secondary_field or b"")
    if max(len(name), len(passcode)) > MAX_FIELD_BYTES:
        return False
    known = next((user for user in users if hmac.compare_digest(user.name.encode(), name)), None)
    return _matches(passcode, known.passcode if known else _NOBODY) and known is not None
