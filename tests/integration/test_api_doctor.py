"""`agatston doctor` on a sound installation and on each of its faults."""

from __future__ import annotations

import datetime as dt
import json
import socket

import certificates
import peers
import pytest
import rows
from api_client import serving

from service import checks, cli
from service.admission import Admission
from service.inbox import Inbox
from service.scp import Scp
from service.settings import Settings
from service.store import Store


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    for name in ("AGATSTON_DATABASE_URL", "AGATSTON_BROKER_URL", "AGATSTON_PACS", "AGATSTON_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGATSTON_HOME", str(folder))
    monkeypatch.setenv("AGATSTON_DICOM_PORT", str(peers.free_port()))
    monkeypatch.setenv("AGATSTON_HTTP_PORT", str(peers.free_port()))
    return folder


def verdicts(found):
    return {one.name: one.verdict for one in found}


def test_a_sound_node_passes_and_prints_json(home, tmp_path, monkeypatch, capsys):
    database = rows.database(home)
    with database.transaction() as session:
        rows.beats(session, "scp", "api", "worker", "sender")
    database.dispose()
    monkeypatch.setattr(checks, "check_scoring", lambda _: iter(()))  # weights have their own test
    with peers.storescp(tmp_path / "in") as pacs:
        monkeypatch.setenv("AGATSTON_PACS", pacs.address)
        code = cli.main(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == 0, said
    assert said["ok"] is True
    assert {one["verdict"] for one in said["checks"]} == {"OK"}
    assert {
        "settings",
        "home",
        "disk",
        "database",
        "broker",
        "dicom port",
        "http port",
        "destination pacs",
    } <= {one["name"] for one in said["checks"]}


def test_a_wrong_setting_is_a_failed_check_with_its_name(home, monkeypatch, capsys):
    monkeypatch.setenv("AGATSTON_DICOM_PORT", "many")
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "FAIL" in said
    assert "AGATSTON_DICOM_PORT" in said


def test_a_pacs_that_is_down_fails_and_a_missing_one_warns(home):
    down = Settings.load({"AGATSTON_HOME": str(home), "AGATSTON_PACS": f"PACS@127.0.0.1:{peers.free_port()}"})
    (found,) = checks.check_peers(down)
    assert (found.verdict, found.name) == ("FAIL", "destination pacs")
    assert "firewall" in found.remedy
    (found,) = checks.check_peers(Settings(home=home))
    assert found.verdict == "WARN"
    assert "AGATSTON_PACS" in found.remedy


def test_a_pacs_that_does_not_know_us_says_what_to_enter_there(home, tmp_path):
    import archive  # noqa: PLC0415 (with its peer)

    with archive.dcmqrscp(tmp_path / "pacs", known={}) as there:
        wrong = Settings(home=home, pacs=f"OTHER@127.0.0.1:{there.port}")

        def refused():  # a busy machine's archive may not answer in time at first
            (found,) = checks.check_peers(wrong)
            assert found.verdict == "FAIL"
            return "our AE title AGATSTON" in found.remedy

        peers.wait_for(refused, seconds=60, what="a refusal that names our AE title")


def test_a_database_that_is_absent_old_or_down(home, tmp_path):
    assert checks.check_database(Settings(home=home)).verdict == "WARN"
    (home / "agatston.db").touch()
    old = checks.check_database(Settings(home=home))
    assert (old.verdict, old.remedy) == ("FAIL", "run `agatston migrate`")
    gone = Settings(home=home, database_url=f"postgresql://me:secret@127.0.0.1:{peers.free_port()}/x")
    down = checks.check_database(gone)
    assert down.verdict == "FAIL"
    assert "secret" not in down.text


def test_a_broker_that_is_down(home):
    settings = Settings(home=home, broker_url=f"redis://:secret@127.0.0.1:{peers.free_port()}/0")
    found = checks.check_broker(settings)
    assert found.verdict == "FAIL"
    assert "secret" not in found.text


def test_a_full_disk_and_an_open_home(home):
    assert checks.check_disk(Settings(home=home, disk_min_free_mb=10**9)).verdict == "FAIL"
    home.chmod(0o755)
    assert checks.check_home(Settings(home=home)).verdict == "WARN"


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    found = checks.check_home(Settings(home=tmp_path / "file" / "home"))
    assert found.verdict == "FAIL"
    assert "AGATSTON_HOME" in found.remedy


def test_ports_are_free_ours_or_somebodys(home):
    database = rows.database(home)
    settings = Settings(home=home, dicom_port=peers.free_port(), http_port=peers.free_port())
    assert "is free" in checks.check_dicom_port(settings).text
    store = Store(settings.store_root)
    inbox = Inbox(settings, store, database)
    ours = Scp(settings, inbox, Admission(settings, store, database))
    ours.start()
    try:
        found = checks.check_dicom_port(settings)
        assert (found.verdict, "our node answers" in found.text) == ("OK", True)
    finally:
        ours.stop()
        inbox.close()
    with serving(settings, database) as client:
        taken = settings.model_copy(update={"http_port": client.base_url.port})
        assert "our node answers" in checks.check_http_port(taken).text
    database.dispose()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = settings.model_copy(update={"dicom_port": stranger.getsockname()[1]})
        stranger.settimeout(0)
        found = checks._check_port(
            "dicom port", "AGATSTON_DICOM_PORT", ("127.0.0.1", taken.dicom_port), lambda *_: False
        )
        assert found.verdict == "FAIL"
        assert "AGATSTON_DICOM_PORT" in found.remedy


def test_what_is_open_to_the_world(home):
    outside = Settings(home=home, dicom_host="0.0.0.0", http_host="0.0.0.0")
    assert verdicts(checks.check_exposure(outside)) == {"dicom access": "FAIL", "http access": "WARN"}
    assert verdicts(checks.check_exposure(Settings(home=home))) == {"dicom access": "OK", "http access": "OK"}


@pytest.mark.parametrize(("days", "verdict"), [(200, "OK"), (10, "WARN"), (-1, "FAIL")])
def test_certificates_end(home, tmp_path, days, verdict):
    authority = certificates.Authority(tmp_path / "ca")
    pair = authority.issue("node", valid=dt.timedelta(days=days))
    settings = Settings(
        home=home, tls_certificate=pair.certificate, tls_key=pair.key, tls_ca=authority.certificate
    )
    assert verdicts(checks.check_certificates(settings)) == {"certificate": verdict}


def test_weights_that_are_absent_fail_with_a_remedy(home, tmp_path):
    pytest.importorskip("torch")
    found = {one.name: one for one in checks.check_scoring(Settings(home=home, weights=str(tmp_path / "none")))}
    assert found["weights"].verdict == "FAIL"
    assert found["device"].verdict == "OK"


def test_a_gpu_that_is_not_there_fails(home):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found = {one.name: one for one in checks.check_scoring(Settings(home=home, device="cuda"))}
    assert found["device"].verdict == "FAIL"
