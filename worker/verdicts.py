"""What a destination's answer means for a delivery, as tables: statuses of DIMSE and of HTTP."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What an answer means for the delivery."""

    STORED = "stored"
    RETRY = "retry"
    REFUSED = "refused"
    NO_CONTEXT = "no context"


# status (exact), or its high byte -> verdict; the exact one wins.
VERDICTS: dict[int, Verdict] = {
    0x0000: Verdict.STORED,
    0x0110: Verdict.RETRY,  # processing failure
    0x0122: Verdict.NO_CONTEXT,  # SOP class not supported
    0x0124: Verdict.RETRY,  # not authorized: a person will have to change something, and can
    0x0210: Verdict.RETRY,  # duplicate invocation
    0x0213: Verdict.RETRY,  # resource limitation
}
VERDICTS_BY_HIGH_BYTE: dict[int, Verdict] = {
    0xB0: Verdict.STORED,  # stored with a warning: coercion, elements discarded
    0xA7: Verdict.RETRY,  # refused: out of resources
    0xA9: Verdict.REFUSED,  # data set does not match SOP class
    0xC0: Verdict.REFUSED,  # cannot understand (C000 to CFFF, see `verdict`)
}
OTHER = Verdict.REFUSED


def verdict(status: int | None) -> Verdict:
    """Return what a C-STORE status means; None: no answer came."""
    if status is None:
        return Verdict.RETRY
    high = 0xC0 if status >> 12 == 0xC else status >> 8
    return VERDICTS.get(status) or VERDICTS_BY_HIGH_BYTE.get(high, OTHER)


HTTP_REFUSED = frozenset({400, 409, 413, 415, 422})
"""HTTP statuses that refuse the object itself (PS3.18 Table 10.5.3-1, RFC 9110 section 15.5).

All others speak of us (401, 403), of the address (301, 404, 405) or of the server (408, 429, 5xx): a person or
time sets that right, and the object waits. So does one that a 200 does not name: some proxy may have answered.
"""


def http_verdict(status: int) -> Verdict:
    """Return what the HTTP status of a STOW-RS answer means that says nothing of the instance."""
    return Verdict.REFUSED if status in HTTP_REFUSED else Verdict.RETRY
