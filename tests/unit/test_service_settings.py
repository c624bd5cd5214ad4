"""Settings: sources, forms, and messages that say what is wrong."""

from __future__ import annotations

import json

import pytest

from calcium.errors import SettingsError
from service.settings import Destination, Settings


def load(tmp_path, **values):
    return Settings.load(
        {"AGATSTON_HOME": str(tmp_path), **{f"AGATSTON_{k.upper()}": v for k, v in values.items()}}
    )


def test_defaults_are_embedded_and_on_loopback(tmp_path):
    settings = load(tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/agatston.db"
    assert settings.broker == "filesystem://"
    assert (settings.dicom_host, settings.dicom_port, settings.http_port) == ("127.0.0.1", 11112, 8080)
    assert settings.any_peer
    settings.require_known_peers()


def test_pacs_is_the_first_destination(tmp_path):
    more = json.dumps([{"name": "second", "aet": "B", "host": "b", "port": 104, "kinds": ["summary"]}])
    settings = load(tmp_path, pacs="ORTHANC@[::1]:4242", destinations=more)
    first, second = settings.all_destinations
    assert (first.name, first.aet, first.host, first.port) == ("pacs", "ORTHANC", "::1", 4242)
    assert second.kinds == ("summary",)
    assert settings.destination("second") is second
    assert settings.destination("gone") is None


def test_variables_win_over_the_file(tmp_path):
    (tmp_path / "agatston.toml").write_text(
        'http_port = 9000\nae_title = "FILE"\n'
        '[[peers]]\naet = "CT1"\nnetworks = ["10.0.0.0/8"]\nlane = "urgent"\n'
    )
    settings = load(tmp_path, http_port="9001")
    assert (settings.http_port, settings.ae_title) == (9001, "FILE")
    assert settings.peer("CT1 ").lane == "urgent"
    assert settings.peer("CT2") is None
    assert not settings.any_peer


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dicom_port": "99999"}, "AGATSTON_DICOM_PORT"),
        ({"ae_title": "SEVENTEEN_LETTERS"}, "AGATSTON_AE_TITLE: an AE title has 1 to 16"),
        ({"pacs": "nonsense"}, "AGATSTON_PACS: write AET@host:port"),
        ({"peers": "CT1"}, "AGATSTON_PEERS: as a variable it is a JSON list"),
        ({"peers": '[{"aet": "CT1", "networks": ["10.0.0.1/8"]}]'}, "AGATSTON_PEERS[0][networks]"),
        ({"tls_certificate": "/nowhere.pem"}, "set together"),
        (
            {"destinations": '[{"name": "pacs", "aet": "A", "host": "h", "port": 1}]', "pacs": "A@h:1"},
            "one name",
        ),
        (
            {"destinations": '[{"name": "a", "aet": "A", "host": "h", "port": 1, "fallback": "b"}]'},
            "the fallback of destination a is not a destination",
        ),
        ({"database_url": "postgresql://u:hunter2@h/d", "http_port": "x"}, "AGATSTON_HTTP_PORT"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, values, said):
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, **values)
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_an_open_port_needs_peers(tmp_path):
    with pytest.raises(SettingsError, match="AGATSTON_ALLOW_ANY_PEER"):
        load(tmp_path, dicom_host="0.0.0.0").require_known_peers()
    load(tmp_path, dicom_host="0.0.0.0", allow_any_peer="true").require_known_peers()
    load(tmp_path, dicom_host="0.0.0.0", peers='[{"aet": "CT1"}]').require_known_peers()


def test_a_peer_calls_from_its_networks_only(tmp_path):
    peer = load(tmp_path, peers='[{"aet": "CT1", "networks": ["10.1.0.0/16", "fd00::/8"]}]').peers[0]
    assert peer.calls_from("10.1.2.3")
    assert peer.calls_from("::ffff:10.1.2.3")
    assert peer.calls_from("fd00::1")
    assert not peer.calls_from("10.2.0.1")


def test_the_driver_of_postgres_is_ours(tmp_path):
    assert load(tmp_path, database_url="postgres://u@h/d").database == "postgresql+psycopg://u@h/d"
    assert load(tmp_path, database_url="postgresql+psycopg://u@h/d").database == "postgresql+psycopg://u@h/d"


def test_a_destination_parses_or_says_how():
    with pytest.raises(ValueError, match=r"ORTHANC@127\.0\.0\.1:4242"):
        Destination.parse("ORTHANC:4242")
