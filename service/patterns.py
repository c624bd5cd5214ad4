"""How settings name many things at once: wildcards and networks."""

from __future__ import annotations

import fnmatch
import ipaddress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def like(text: str, pattern: str) -> bool:
    """Tell whether a text has the form of a pattern with ``*``, ``?`` and ``[...]``, whatever its case."""
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())


def lies_in(address: str, networks: Iterable[Network]) -> bool:
    """Tell whether an IP address lies in one of the networks; an IPv4 address may be written as IPv6.

    Raises
    ------
    ValueError
        It is no IP address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)
