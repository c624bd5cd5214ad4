"""Destinations and peers with a url: forms, secrets, and what they become."""

from __future__ import annotations

import json
import threading

import certificates
import pytest

from calcium.errors import SettingsError
from service import addresses, checks, pulling
from service.dicomweb.server import Server
from service.dimse.association import _Checkpoint
from service.settings import Destination, Settings, web_url

URL = "https://pacs.example/dicom-web"


def load(tmp_path, **values):
    return Settings.load(
        {"AGATSTON_HOME": str(tmp_path), **{f"AGATSTON_{k.upper()}": v for k, v in values.items()}}
    )


def destination(**more):
    return json.dumps([{"name": "web", "url": URL, **more}])


def test_the_default_destination_may_be_a_url_with_a_token(tmp_path):
    token = tmp_path / "token"
    token.write_text("abc\n")
    settings = load(tmp_path, pacs=URL + "/", pacs_token_file=str(token))
    (pacs,) = settings.all_destinations
    assert (pacs.name, pacs.url, pacs.address) == ("pacs", URL, URL)
    assert addresses.web_server(settings, pacs) == Server(URL, authorization="Bearer abc")
    assert addresses.address(settings, pacs) is None
    assert settings.sender("") is None
    for name in (None, "pacs", URL, URL + "/"):
        assert pulling.peer_of(settings, name).authorization == "Bearer abc"
    assert pulling.peer_of(settings, "https://other.example/").authorization == "", (
        "the token is not for others"
    )
    assert "abc" not in repr(pulling.peer_of(settings, None))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://h/", "write the base"),
        ("https://", "write the base"),
        ("https://h:0/", "write the base"),
        ("https://h:x/", "write the base"),
        ("https://[::1/", "write the base"),
        ("https://h/a b", "write the base"),
        ("https://h/\r\nX: y", "write the base"),
        ("https://ä.example/", "write the base"),
        ("https://user:hunter2@h/", "no user, password"),
        ("https://h/?a=hunter2", "no user, password, query"),
        ("https://h/#hunter2", "fragment"),
    ],
)
def test_what_is_no_base_address(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        web_url(text)
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, pacs=text)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(SettingsError):
        pulling.peer_of(load(tmp_path), text)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"host": "h", "port": 104}, "or a url, not both"),
        ({"commitment": True}, "STOW-RS knows no storage commitment"),
        ({"token": "hunter2", "user": "u"}, "give one of token"),
        ({"token": "hunter2", "token_file": "f"}, "give one of token"),
        ({"user": "u"}, "user goes with one of password"),
        ({"password": "hunter2"}, "user goes with one of password"),
        ({"user": "a:b", "password": "hunter2"}, "user"),
        ({"url": None, "aet": "A", "host": "h", "port": 1, "token": "hunter2"}, "belong to a url"),
        ({"url": None, "aet": "A", "host": "h"}, "has aet, host and port, or a url"),
    ],
)
def test_what_does_not_fit_together(tmp_path, more, said):
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, destinations=destination(**more))
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(SettingsError, match="pacs_token_file goes with"):
        load(tmp_path, pacs="A@h:1", pacs_token_file="f")


def test_basic_authentication_is_in_utf_8(tmp_path):
    settings = load(tmp_path, destinations=destination(user="u", password="wörd", aet="WEB"))
    server = addresses.web_server(settings, settings.destinations[0])
    assert (server.aet, server.authorization) == ("WEB", "Basic dTp3w7ZyZA==")
    assert "wörd" not in repr(settings)
    assert pulling.peer_of(settings, "WEB") == server


@pytest.mark.parametrize("content", [b"", b"two words", b"a\r\nX-Evil: 1", "ä".encode(), b"\xff\xfe"])
def test_a_token_that_no_header_carries_is_a_fault_of_the_settings(tmp_path, content):
    token = tmp_path / "token"
    token.write_bytes(content)
    settings = load(tmp_path, destinations=destination(token_file=str(token)))
    with pytest.raises(SettingsError, match="token") as raised:
        addresses.web_server(settings, settings.destinations[0])
    assert "Evil" not in str(raised.value)


def test_a_ca_is_trusted_instead_of_the_system_and_our_certificate_shown(tmp_path):
    authority = certificates.Authority(tmp_path / "ca")
    ours = authority.issue("us")
    settings = load(
        tmp_path,
        tls_ca=str(authority.certificate), tls_certificate=str(ours.certificate), tls_key=str(ours.key),
        destinations=destination(ca=str(authority.certificate), tls=True),
    )  # fmt: skip
    server = addresses.web_server(settings, settings.destinations[0])
    assert len(server.tls.get_ca_certs()) == 1
    gone = load(tmp_path, destinations=destination(ca=str(tmp_path / "gone.pem")))
    with pytest.raises(SettingsError, match="TLS certificates cannot be loaded"):
        addresses.web_server(gone, gone.destinations[0])
    (check,) = (one for one in checks.check_peers(gone))
    assert (check.name, check.verdict) == ("destination web", "FAIL")


def test_a_peer_may_have_both_ways(tmp_path):
    known = {"name": "both", "aet": "BOTH", "host": "h", "port": 104, "url": URL}
    settings = load(tmp_path, peers=json.dumps([known]))
    assert pulling.peer_of(settings, "both") == Server(URL, "BOTH")
    assert addresses.address(settings, settings.peers[0]).host == "h"
    assert Destination.parse("A@h:1").address == "A@h:1"


def test_a_request_is_not_sent_before_the_associations_thread_waits():
    class Reactor(threading.Thread):
        """Waits as an association's thread does, and is held up after it was woken."""

        def __init__(self):
            super().__init__(daemon=True)
            self.checkpoint = _Checkpoint(self)
            self.gate, self.woken = threading.Event(), threading.Event()
            self.ends = False

        def run(self):
            while not self.ends:
                self.checkpoint.wait()
                self.woken.set()
                self.gate.wait()

    reactor = Reactor()
    reactor.gate.set()
    reactor.start()
    reactor.checkpoint.clear()  # it waits now
    reactor.gate.clear()
    reactor.woken.clear()
    reactor.checkpoint.set()
    assert reactor.woken.wait(20)  # it reads
    second = threading.Thread(target=reactor.checkpoint.clear, daemon=True)
    second.start()
    second.join(0.3)
    assert second.is_alive(), "pynetdicom would send its second request now"
    reactor.gate.set()
    second.join(20)
    assert not second.is_alive()
    reactor.ends = True
    reactor.checkpoint.set()
    reactor.join(20)
    reactor.checkpoint.clear()  # of a thread that ended: nothing to wait for
