"""User identity negotiation (PS3.7 D.3.3.7), against pynetdicom and dcmtk."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import peers
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from receiving import ct_series, receiver, settings, write_all

from calcium.errors import SettingsError
from service import cli
from service.identity import hash_passcode

REJECTED = (1, 2, 1)  # permanent, by the ACSE, no reason given
NAME, PASSCODE = "ct-1", "a passcode of the site"


@pytest.fixture(scope="module")
def guarded():
    """Return the setting of a peer that must name a user, and of one that need not."""
    users = [
        {"name": "other", "passcode": hash_passcode("x")},
        {"name": NAME, "passcode": hash_passcode(PASSCODE)},
    ]
    return json.dumps([{"aet": "CT1", "users": users}, {"aet": "CT2"}])


def item(kind, primary, secondary=None, *, respond=False):
    found = UserIdentityNegotiation()
    found.user_identity_type, found.primary_field = kind, primary
    if secondary is not None:
        found.secondary_field = secondary
    found.positive_response_requested = respond
    return found


def associate(node, identity, calling="CT1"):
    entity = AE(ae_title=calling)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    items = [] if identity is None else [identity]
    return entity.associate("127.0.0.1", node.port, ae_title="AGATSTON", ext_neg=items)


def rejection(association):
    primitive = association.acceptor.primitive
    return primitive.result, primitive.result_source, primitive.diagnostic


def test_only_a_user_with_the_passcode_comes_in(tmp_path, guarded, caplog):
    good = item(2, NAME.encode(), PASSCODE.encode(), respond=True)
    wrong = [
        None,
        item(1, NAME.encode()),
        item(2, NAME.encode(), b"another passcode"),
        item(2, NAME.encode(), hash_passcode(PASSCODE).encode()),
        item(2, b"nobody", PASSCODE.encode()),
        item(2, b"other", PASSCODE.encode()),
        item(2, NAME.encode(), PASSCODE.encode() * 100),
        item(3, b"a ticket"),
        item(4, b"an assertion"),
        item(5, PASSCODE.encode()),
    ]
    with receiver(tmp_path, peers=guarded) as node:
        for identity in wrong:
            assert rejection(associate(node, identity)) == REJECTED
        association = associate(node, good)
        assert association.is_established
        assert association.acceptor.user_identity.server_response == b""
        assert association.send_c_store(ct_series(1)[0]).Status == 0x0000
        association.release()
    assert PASSCODE not in caplog.text
    assert "rejected: no user of this peer" in caplog.text


def test_an_identity_that_cannot_be_checked_is_ignored_or_refused(tmp_path, guarded):
    for setting in ("ignore", "refuse"):
        with receiver(tmp_path / setting, peers=guarded, unchecked_identities=setting) as node:
            for identity in (
                item(2, b"x", b"y", respond=True),
                item(3, b"ticket", respond=True),
                item(5, b"t"),
            ):
                association = associate(node, identity, calling="CT2")
                if setting == "refuse":
                    assert rejection(association) == REJECTED
                    continue
                assert association.is_established
                assert association.acceptor.user_identity is None  # nobody checked it: no positive response
                association.release()
            plain = associate(node, None, calling="CT2")
            assert plain.is_established
            plain.release()


def test_dcmtk_names_a_user(tmp_path, guarded):
    files = write_all(tmp_path / "files", ct_series(2))
    with receiver(tmp_path / "home", peers=guarded) as node:
        command = [peers.program("storescu"), "-aet", "CT1", "-aec", "AGATSTON", "+sd", "-usr", NAME, "-rsp"]
        for passcode, code in ((PASSCODE, 0), ("wrong", 1)):
            done = subprocess.run(
                [*command, "-pwd", passcode, "127.0.0.1", str(node.port), str(files)],
                env=peers.FAST_TCP, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert bool(done.returncode) == bool(code), done.stderr
            assert ("Association Rejected" in done.stderr) == bool(code)


def test_a_passcode_itself_is_no_setting(tmp_path):
    with pytest.raises(SettingsError) as error:
        settings(tmp_path, peers=json.dumps([{"aet": "CT1", "users": [{"name": NAME, "passcode": PASSCODE}]}]))
    assert PASSCODE not in str(error.value)


def test_the_command_makes_a_hash_that_the_settings_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSCODE + "\n"))
    assert cli.main(["passcode"]) == 0
    made = capsys.readouterr().out.strip()
    chosen = settings(tmp_path, peers=json.dumps([{"aet": "CT1", "users": [{"name": NAME, "passcode": made}]}]))
    assert chosen.peers[0].users[0].passcode == made
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert cli.main(["passcode"]) == 2
