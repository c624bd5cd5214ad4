"""Where the settings' peers and destinations listen, for the DIMSE client and the DICOMweb client."""

from __future__ import annotations

import base64
import re
import ssl
from typing import TYPE_CHECKING

from calcium.errors import SettingsError
from service import scu
from service.dicomweb.server import DEFAULT_AET, Server

if TYPE_CHECKING:
    from pathlib import Path

    from service.settings import Destination, Peer, Settings

TOKEN_FORM = re.compile(r"[\x21-\x7e]{1,16384}")  # RFC 9110 section 5.5, and no space


def address(settings: Settings, known: Peer | Destination) -> scu.Peer | None:
    """Return where a peer or destination listens for DIMSE; None where the settings give no host and port.

    Raises
    ------
    SettingsError
        It speaks TLS, and the settings name no usable certificates.
    """
    if not known.host or not known.port:
        return None
    tls = None
    if known.tls and settings.tls_ca is not None:
        tls = scu.tls_context(ca=settings.tls_ca, certificate=settings.tls_certificate, key=settings.tls_key)
    return scu.Peer(known.aet, known.host, known.port, tls)


def web_server(settings: Settings, known: Peer | Destination) -> Server | None:
    """Return where a peer or destination answers DICOMweb; None where the settings give no url.

    Raises
    ------
    SettingsError
        A file of its token, password or certificates is absent or holds something else.
    """
    if known.url is None:
        return None
    tls = None
    if known.ca is not None:
        shown = (settings.tls_certificate, settings.tls_key) if known.tls else (None, None)
        tls = scu.tls_context(ca=known.ca, certificate=shown[0], key=shown[1])
    elif known.tls and settings.tls_certificate is not None:
        tls = ssl.create_default_context()
        tls.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return Server(known.url, known.aet or DEFAULT_AET, _authorization(known), tls)


def archive(settings: Settings, known: Peer | Destination) -> scu.Peer | Server | None:
    """Return where a peer or destination is asked: at its url where it has one, else at its host and port.

    Raises
    ------
    SettingsError
        As `address` and `web_server`.
    """
    return web_server(settings, known) or address(settings, known)


def _authorization(known: Peer | Destination) -> str:
    """Return the value of the header Authorization: Bearer (RFC 6750), Basic (RFC 7617), or empty."""
    if known.token is not None:
        return f"Bearer {_token(known.token.get_secret_value(), 'its token')}"
    if known.token_file is not None:
        return f"Bearer {_token(_secret(known.token_file), f'the token in {known.token_file}')}"
    if known.user is None:
        return ""
    if known.password is not None:
        password = known.password.get_secret_value()
    else:
        assert known.password_file is not None  # the settings check it
        password = _secret(known.password_file)
    return "Basic " + base64.b64encode(f"{known.user}:{password}".encode()).decode("ascii")


def _token(text: str, name: str) -> str:
    if not TOKEN_FORM.fullmatch(text):
        raise SettingsError(f"{name} is empty or has characters that no header may carry")
    return text


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {type(error).__name__}") from None
