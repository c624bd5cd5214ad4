"""Where the settings' peers and destinations listen, for the DIMSE client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service import scu

if TYPE_CHECKING:
    from service.settings import Destination, Peer, Settings


def address(settings: Settings, known: Peer | Destination) -> scu.Peer | None:
    """Return where a peer or destination listens; None where the settings give no host and port.

    Raises
    ------
    SettingsError
        It speaks TLS, and the settings name no usable certificates.
    """
    if known.host is None or known.port is None:
        return None
    tls = None
    if known.tls and settings.tls_ca is not None:
        tls = scu.tls_context(ca=settings.tls_ca, certificate=settings.tls_certificate, key=settings.tls_key)
    return scu.Peer(known.aet, known.host, known.port, tls)
