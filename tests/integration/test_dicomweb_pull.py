"""Finding and pulling by QIDO-RS and WADO-RS: from Orthanc, and from a server that misbehaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import peers
import pydicom
import pytest
import rows
import small_ct
from api_client import serving
from sqlalchemy import func, select
from web_archive import Reply, answering

from calcium.errors import ArchiveUnavailableError, SettingsError
from service import checks, pulling, scu
from service.admission import Admission
from service.dicomweb import search
from service.dicomweb.server import Server
from service.inbox import Inbox
from service.intake import Intake
from service.settings import Settings
from service.store import Store
from service.tables import Instance, Series

STUDY, SERIES = "1.2.826.0.1.3680043.10.1338.1", "1.2.826.0.1.3680043.10.1338.2"
RELATED = 'multipart/related; type="application/dicom"; boundary="xyz"'


class Home:
    """A node's database, inbox and store, without processes."""

    def __init__(self, folder, **settings):
        self.settings = Settings(home=folder, **settings)
        self.database = rows.database(folder)
        self.store = Store(self.settings.store_root)
        self.inbox = Inbox(self.settings, self.store, self.database)
        self.admission = Admission(self.settings, self.store, self.database)

    def puller(self, server):
        return pulling.Puller(self.settings, self.database, self.inbox, self.admission, server)

    def held(self):
        with self.database.reading() as session:
            return {row.sop_instance_uid: row for row in session.scalars(select(Instance))}

    def close(self):
        self.inbox.close()
        self.database.dispose()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    made = Home(tmp_path / "home")
    yield made
    made.close()


def found_series(instances=None, series=SERIES):
    return pulling.FoundSeries(STUDY, series, "", "CT", "", "", instances)


def files_of(folder, count, **attributes):
    common = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, **attributes}
    written = small_ct.write_series(folder, count, **common)
    return written, [path.read_bytes() for path in sorted(folder.iterdir())]


def multipart(files, boundary=b"xyz"):
    head = b"--" + boundary + b"\r\nContent-Type: application/dicom\r\nMIME-Version: 1.0\r\n\r\n"
    return [head + file + b"\r\n" for file in files] + [b"--" + boundary + b"--\r\n"]


def wado(pieces, **more):
    return lambda _: Reply(200, pieces, {"Content-Type": RELATED}, **more)


def test_orthanc_is_searched_and_pulled_from_without_a_patient_in_a_url(tmp_path, home):
    lung = small_ct.write_series(tmp_path / "sent", 5)
    study = lung[0].StudyInstanceUID
    small_ct.write_series(
        tmp_path / "sent", 3, StudyInstanceUID=study, SeriesDescription="BONE 0.6", SeriesNumber=2
    )
    small_ct.write_series(tmp_path / "sent", 2, StudyDate="20261101", PatientID="scu-2", StudyID="2")
    with peers.orthanc(tmp_path / "pacs", dicomweb=True) as there:
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        server = pulling.peer_of(home.settings, there.web + "/")

        def uids(**wanted):
            found = pulling.find(server, pulling.Wanted(**wanted), calling_ae="AGATSTON")
            return {one.series_instance_uid for one in found}

        peers.wait_for(lambda: len(uids()) == 3, what="three series in the index")
        assert len(uids(dates="20261120-")) == 2
        assert uids(dates="20261120-", description="lung*") == {lung[0].SeriesInstanceUID}
        assert uids(series_instance_uid=lung[0].SeriesInstanceUID) == {lung[0].SeriesInstanceUID}
        assert uids(modality="MR") == uids(study_instance_uid="1.2.3") == set()
        (found,) = pulling.find(server, pulling.Wanted("CT", "20261120-", "lung*"), calling_ae="AGATSTON")
        assert (found.study_date, found.modality, found.instances) == ("20261124", "CT", 5)
        (pulled,) = home.puller(server).pull_all([found])
        assert (pulled.outcome, pulled.instances, pulled.text) == ("pulled", 5, "")
        gone = home.puller(server).pull(found_series(series="1.2.3"))
        assert (gone.outcome, "404" in gone.text) == ("failed", True)
        assert (
            checks._search(
                home.settings, "x", Settings(pacs=there.web).all_destinations[0], fault="FAIL"
            ).verdict
            == "OK"
        )
    held = home.held()
    assert set(held) == {one.SOPInstanceUID for one in lung}
    for one in lung:
        row = held[one.SOPInstanceUID]
        kept = pydicom.dcmread(home.store.path(row.key))
        assert (kept.PixelData, row.transfer_syntax_uid) == (one.PixelData, one.file_meta.TransferSyntaxUID)
    home.inbox.close()  # writes what waits
    with home.database.reading() as session:
        series = session.scalars(select(Series)).one()
    assert (series.calling_ae, series.released_at is not None) == ("DICOMWEB", True)
    assert pulling.is_known(home.database, found)
    home.inbox = Inbox(home.settings, home.store, home.database)


def test_the_commands_and_the_api_take_a_peer_with_a_url(tmp_path):
    (tmp_path / "home").mkdir()
    database = rows.database(tmp_path / "home")
    with peers.orthanc(tmp_path / "pacs", dicomweb=True, users={"agatston": "secret"}) as there:
        slices = small_ct.write_series(tmp_path / "sent", 4)
        peers.storescu(there.port, tmp_path / "sent", called=there.aet)
        known = {"name": "web", "aet": "ORTHANC", "url": there.web, "user": "agatston", "password": "secret"}
        environment = {
            **os.environ, "AGATSTON_HOME": str(tmp_path / "home"), "AGATSTON_PEERS": json.dumps([known]),
            "AGATSTON_LOG_LEVEL": "DEBUG",
        }  # fmt: skip

        def agatston(*arguments):
            command = [sys.executable, "-m", "service.cli", *arguments, "--json", "--from"]
            done = subprocess.run(
                [*command, "web" if arguments[0] == "find" else there.web],
                env=environment, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "secret" not in done.stderr
            assert "Scu" not in done.stdout + done.stderr, "nothing printed names the patient"
            return [json.loads(line) for line in done.stdout.splitlines()]

        (found,) = peers.wait_for(lambda: agatston("find", "--new"), seconds=60, what="the series")
        assert (found["series_instance_uid"], found["instances"]) == (slices[0].SeriesInstanceUID, 4)
        (pulled,) = agatston("pull")
        assert (pulled["outcome"], pulled["instances"]) == ("pulled", 4)
        settings = Settings(home=tmp_path / "home", peers=(known,))
        with serving(settings, database) as api:
            (again,) = api.post("/api/v1/archive/find", json={"archive": "web", "only_new": False}).json()
            assert again["known"] is True
            for address in (there.web, "http://169.254.169.254/"):
                assert api.post("/api/v1/archive/find", json={"archive": address}).status_code == 422
    with database.reading() as session:
        assert session.scalars(select(Series.calling_ae)).one() == "ORTHANC"
        assert session.scalar(select(func.count(Instance.id))) == 4
    database.dispose()


def test_parts_go_through_the_same_checks_as_c_store(tmp_path, home):
    slices, files = files_of(tmp_path / "a", 3)
    _, other = files_of(tmp_path / "b", 1, SeriesInstanceUID="1.2.3")
    changed = pydicom.dcmread(io.BytesIO(files[0]))
    changed.SeriesDescription = "another"
    conflict = io.BytesIO()
    changed.save_as(conflict, enforce_file_format=True)
    traversal = files[1].replace(SERIES.encode(), b"../../../etc/passwd".ljust(len(SERIES), b"x"))
    hostile = [
        conflict.getvalue(), other[0], traversal, b"", b"junk" * 100, files[2][:200],
        bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\xff\xff1.2",
        bytes(128) + b"DICM" + b"\x02\x00\x02\x01OB\0\0\xff\xff\xff\xff",
    ]  # fmt: skip
    with answering(wado(multipart([*files[:2], *hostile, files[2], files[2]]))) as web:
        pulled = home.puller(Server(web.url)).pull(found_series(3))
    assert (pulled.outcome, pulled.instances) == ("incomplete", 4), "a duplicate is no failure"
    assert pulled.text.startswith(f"{len(hostile)} instances failed")
    assert set(home.held()) == {one.SOPInstanceUID for one in slices}
    (asked,) = web.requests
    assert asked.path == f"/dicom-web/studies/{STUDY}/series/{SERIES}"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert "transfer-syntax=*" in asked.headers["Accept"]
    assert not list(home.settings.home.rglob("passwd*"))


def test_a_full_disk_ends_the_retrieve(tmp_path):
    full = Home(tmp_path, disk_min_free_mb=10**9)
    _, files = files_of(tmp_path / "a", 3)
    with answering(wado(multipart(files))) as web:
        pulled = full.puller(Server(web.url)).pull(found_series(3))
    full.close()
    assert (pulled.outcome, pulled.text) == ("incomplete", "1 instances failed, status A700H")
    assert full.held() == {}


@pytest.mark.parametrize(
    ("pieces", "more", "said"),
    [
        (multipart, {"cut": True}, None),  # after the last boundary: all is there
        (lambda files: multipart(files)[:2], {}, "ends before its last boundary"),
        (lambda files: multipart(files)[:2], {"cut": True}, "broke the connection"),
        (lambda files: [b"no boundary at all" * 1000], {}, "not a multipart message"),
        (lambda files: multipart(files, b"abc"), {}, "not a multipart message"),
        (lambda files: [b"--xyz\r\n", b"X-A: b\r\n" * 100_000], {}, "not a multipart message"),
        (lambda files: multipart([files[0], bytes(2 << 20)]), {}, "a part has more than"),
        (lambda files: multipart(files * 2), {}, "more than 5 instances"),
    ],
)
def test_a_retrieve_that_breaks_off_keeps_what_came(tmp_path, pieces, more, said):
    small = Home(tmp_path, max_instance_mb=1, max_series_instances=5)
    _, files = files_of(tmp_path / "a", 3)
    with answering(wado(pieces(files), **more)) as web:
        pulled = small.puller(Server(web.url)).pull(found_series(3))
    small.close()
    assert pulled.outcome == ("failed" if said else "pulled")
    assert (said or "") in pulled.text
    assert len(small.held()) <= 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(200, b"[]"), "not multipart/related"),
        (Reply(200, b"x", {"Content-Type": "multipart/related"}), "not multipart/related with a boundary"),
        (Reply(200, b"x", {"Content-Type": RELATED, "Content-Encoding": "gzip"}), "compresses"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:9/"}), "redirects"),
        (Reply(403), "another token"),
        (Reply(503), "answers WADO-RS with 503"),
    ],
)
def test_what_is_no_series_is_an_outcome(home, reply, said):
    with answering(lambda _: reply) as web:
        pulled = home.puller(Server(web.url)).pull(found_series())
    assert pulled.outcome == "failed"
    assert said in pulled.text
    assert len(web.requests) == 1


def test_memory_holds_one_part_of_a_long_series(tmp_path, home, monkeypatch):
    _, files = files_of(tmp_path / "a", 1)
    waiting = []
    monkeypatch.setattr(Intake, "_receive", lambda *_: waiting.append(1) or 1)
    sent = [len(waiting)]

    class Counting(list):
        def __iter__(self):
            for piece in super().__iter__():
                sent.append(len(waiting))
                yield piece

    body = Counting(multipart([files[0] + bytes(300_000)] * 200))
    with answering(wado(body)) as web:
        pulled = home.puller(Server(web.url)).pull(found_series(200))
    assert pulled.instances == 200
    assert sent[-1] > 100, "parts are handed over while others are still to come"


def item(study):
    return {"0020000D": {"vr": "UI", "Value": [study]}}


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (lambda offset: json.dumps([item(f"1.2.{offset + i}") for i in range(min(50, 120 - offset))]), 120),
        (lambda offset: json.dumps([item("1.2.3")]), 1),  # knows no offset
        (lambda offset: json.dumps([] if offset else [item("../../etc"), 7, None, {}, item("1.2")]), 1),
        (lambda offset: "", 0),
    ],
)  # fmt: skip
def test_pages_of_studies(answer, count):
    def reply(request):
        return Reply(200, answer(int(request.path.rpartition("offset=")[2])).encode())

    with answering(reply) as web, search.querying(Server(web.url)) as query:
        assert len(query("STUDY", {"StudyInstanceUID": "", "StudyDate": "20261101-"})) == count
    assert "StudyDate=20261101-" in web.requests[0].path


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"<html>Doe</html>", "else than JSON"), (b"{}", "else than a list"), (b"[" * 10**5, "else than JSON")],
)  # fmt: skip
def test_an_answer_that_is_no_list_is_refused_and_not_repeated(body, said):
    with (
        answering(lambda _: Reply(200, body)) as web,
        pytest.raises(scu.PeerRefusedError, match=said) as raised,
        search.querying(Server(web.url)) as query,
    ):
        query("STUDY", {"StudyInstanceUID": ""})
    assert "Doe" not in str(raised.value)


def test_too_much_json_and_too_slow_an_answer_are_given_up(monkeypatch):
    monkeypatch.setattr("service.dicomweb.server.MAX_JSON_BYTES", 1000)
    with answering(lambda _: Reply(200, b" " * 2000)) as web:
        with pytest.raises(scu.PeerRefusedError, match="more than 1000 bytes"):
            search.check(Server(web.url))
        monkeypatch.setattr("service.dicomweb.server.PACE_SECONDS", 0.0)
        with pytest.raises(ArchiveUnavailableError, match="bytes a minute"):
            search.check(Server(web.url))


def test_nothing_about_a_patient_gets_into_a_url():
    with search.querying(Server("http://127.0.0.1:9")) as query:
        for keys in ({"PatientID": "1"}, {"PatientName": "Doe"}, {"StudyDescription": "Doe"}):
            with pytest.raises(ValueError, match="not to be matched in a URL"):
                query("STUDY", {"StudyInstanceUID": "", **keys})
        with pytest.raises(SettingsError, match="form of a UID"):
            query("SERIES", {"StudyInstanceUID": "../patients", "SeriesInstanceUID": ""})
