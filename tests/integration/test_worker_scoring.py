"""A scoring job from row to row, and what happens when things go wrong in between; the networks stand aside."""

from __future__ import annotations

import io
import json
import threading
import time
import typing
from copy import deepcopy
from dataclasses import replace

import peers
import pydicom
import pytest
import report_samples as samples
import sr_reader
import worker_rows
from sqlalchemy.exc import OperationalError

from calcium.eligibility import EligibilityRules
from calcium.errors import ResourcesError, WeightsError
from calcium.job import JobState
from models.pipeline import Outcome
from service import deliveries, jobs
from service.rules import Group
from service.tables import Delivery, Job, JobEvent, OutputObject, Result
from worker import scoring_job


class Scripted:
    """Stands for the networks: does what the test says, and counts."""

    rules = EligibilityRules()

    def __init__(self, *steps):
        self.steps = list(steps)
        self.calls = []

    def score(self, paths, *, careful=False):
        self.calls.append((list(paths), careful))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step


@pytest.fixture(scope="module")
def outcome():
    series = samples.series()
    return Outcome("1.2", "scored", None, None, series, samples.result(series), {"read": 0.25})


@pytest.fixture
def node(tmp_path):
    node = worker_rows.node(tmp_path / "home", role="worker", pacs="PACS@127.0.0.1:9")
    yield node
    node.close()


def job_of(node, job_id):
    with node.database.reading() as session:
        return session.get_one(Job, job_id)


def everything(node, table):
    with node.database.reading() as session:
        return list(session.query(table))


def test_a_scored_job_leaves_result_objects_and_deliveries(node, outcome, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x")
    job_id = worker_rows.waiting_job(node, [tmp_path / "a.dcm"])
    scorers = Scripted(outcome)
    scoring_job.score(node, scorers, job_id)
    ((paths, careful),) = scorers.calls
    assert [path.read_bytes() for path in paths] == [b"x"]
    assert careful is False
    job = job_of(node, job_id)
    assert job.state == JobState.SCORED
    assert job.seconds["read"] == 0.25
    assert job.seconds["report"] > 0
    (row,) = everything(node, Result)
    assert row.agatston == outcome.result.agatston
    assert row.risk_group == outcome.result.risk_group.label
    assert row.slice_scores[3]["z_mm"] == outcome.result.slice_scores[3].z_mm
    assert row.warnings[0] == {"code": "few_slices", "text": outcome.result.cautions[0].text}
    assert row.weights["sha256"] == outcome.result.weights.sha256
    objects = {one.kind: one for one in everything(node, OutputObject)}
    assert set(objects) == {"sr3d", "sr", "summary"}
    report = pydicom.dcmread(node.store.path(objects["sr3d"].key))
    assert report.SOPInstanceUID == objects["sr3d"].sop_instance_uid
    assert sr_reader.read(report).totals.numbers["SCT", "450360000"] == row.agatston
    planned = {one.object_id for one in everything(node, Delivery)}
    assert planned == {objects["sr3d"].id, objects["summary"].id}


def test_the_same_job_done_twice_by_two_workers_is_recorded_once(node, outcome):
    job_id = worker_rows.waiting_job(node)
    files = {}

    def slow():
        # The lease is lost while we work, and another worker ends the job.
        with node.database.transaction() as session:
            session.get_one(Job, job_id).lease_until = worker_rows.now()
        assert jobs.take_back_expired(node.database) == [job_id]
        scoring_job.score(node, Scripted(outcome), job_id)
        files.update({one.key: node.store.path(one.key).read_bytes() for one in everything(node, OutputObject)})
        return outcome

    scoring_job.score(node, Scripted(slow), job_id)
    assert job_of(node, job_id).state == JobState.SCORED
    assert job_of(node, job_id).kills == 1
    assert len(everything(node, Result)) == 1
    assert len(everything(node, OutputObject)) == 3
    assert len(everything(node, Delivery)) == 2
    # What the first worker wrote over them was the same.
    assert files == {key: node.store.path(key).read_bytes() for key in files}


def test_not_eligible_is_recorded_with_its_reason_and_nothing_is_sent(node):
    job_id = worker_rows.waiting_job(node)
    refused = Outcome(
        "1.2", "not_eligible", "contrast_enhanced", "Contrast medium in the blood.", samples.series()
    )
    scoring_job.score(node, Scripted(refused), job_id)
    job = job_of(node, job_id)
    assert (job.state, job.reason_code, job.reason) == (
        JobState.NOT_ELIGIBLE, "contrast_enhanced", "Contrast medium in the blood.",
    )  # fmt: skip
    assert everything(node, Result) == []
    assert everything(node, OutputObject) == []
    assert everything(node, Delivery) == []


def asks_for_refusals(home):
    return worker_rows.node(
        home, destinations=worker_rows.destination("a", "A", 9, kinds=["sr3d", "not_eligible"])
    )


@pytest.mark.parametrize("by_headers", [True, False])
def test_a_destination_may_ask_for_reports_on_what_is_not_eligible(tmp_path, by_headers):
    node = asks_for_refusals(tmp_path / "home")
    series = samples.series()
    files = samples.write_source(replace(series, instances=series.instances[:3]), tmp_path / "source")
    job_id = worker_rows.waiting_job(node, files)
    # What the headers refuse never becomes a series (models.pipeline); a cut heart is found in one.
    refused = Outcome("1.2", "not_eligible", "too_thick", "Slices of 5 mm.", None if by_headers else series)
    scoring_job.score(node, Scripted(refused), job_id)
    (row,) = everything(node, OutputObject)
    assert (row.kind, row.sop_class_uid) == ("not_eligible", "1.2.840.10008.5.1.4.1.1.88.33")
    document = pydicom.dcmread(node.store.path(row.key))
    report = sr_reader.read(document)
    assert report.totals.codes["99AGATSTON", "NOT-SCORED"] == ("99AGATSTON", "TOO-THICK")
    assert (document.PatientName, document.AccessionNumber) == ("Müller^Jürgen", "ACC-1")
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    (of_series,) = study.ReferencedSeriesSequence
    assert {one.ReferencedSOPInstanceUID for one in of_series.ReferencedSOPSequence} == {
        one.sop_instance_uid for one in (series.instances[:3] if by_headers else series.instances)
    }
    assert len(everything(node, Delivery)) == 1
    node.close()


def test_a_result_goes_where_the_rules_of_a_destination_fit(tmp_path, outcome):
    group = outcome.result.risk_group.label
    rules = {
        "here": {"institution_name": "*nord*", "risk_group": group, "called_ae": "agatston"},
        "elsewhere": {"institution_name": "*süd*"},
        "other_group": {"risk_group": [one for one in typing.get_args(Group) if one != group]},
        "address": {"address": "127.0.0.0/8"},  # this series has none
    }
    address = {"aet": "A", "host": "127.0.0.1", "port": 9}
    node = worker_rows.node(
        tmp_path / "home", role="worker",
        destinations=json.dumps([
            {"name": name, **address, "kinds": ["sr3d", kind], "match": match}
            for (name, match), kind in zip(rules.items(), ("pdf", "seg", "seg", "seg"), strict=True)
        ]),
    )  # fmt: skip
    header = deepcopy(outcome.series.header)
    header.InstitutionName = "Klinik Nord"
    job_id = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(replace(outcome, series=replace(outcome.series, header=header))), job_id)
    objects = {one.id: one.kind for one in everything(node, OutputObject)}
    assert set(objects.values()) == {"sr3d", "summary", "pdf"}  # nobody gets the segmentation: it is not made
    planned = {(one.destination, objects[one.object_id]) for one in everything(node, Delivery)}
    assert planned == {("here", "sr3d"), ("here", "pdf")}
    node.close()


def test_a_correction_goes_where_the_report_went_that_it_corrects(tmp_path, outcome):
    # The group of the first result fits, that of the second does not: the archive would keep the wrong one.
    rule = {"risk_group": outcome.result.risk_group.label}
    node = worker_rows.node(
        tmp_path / "home", role="worker",
        destinations=worker_rows.destination("high", "A", 9, kinds=["sr3d"], match=rule),
    )  # fmt: skip
    first = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(outcome), first)
    (sent,) = everything(node, Delivery)
    with node.database.transaction() as session:
        session.get_one(Delivery, sent.id).attempts = 1
    later = later_revision(node, first)
    assert outcome.result.risk_group.label != "very low"
    lower = replace(outcome, result=replace(outcome.result, agatston=0.0, agatston_interval=None))
    assert lower.result.risk_group.label == "very low"
    scoring_job.score(node, Scripted(lower), later)
    assert job_of(node, later).state == JobState.SCORED, job_of(node, later).reason
    assert [one.destination for one in everything(node, Delivery)] == ["high", "high"]
    node.close()


def later_revision(node, job_id):
    with node.database.transaction() as session:
        series_id = session.get_one(Job, job_id).series_id
        later = Job(series_id=series_id, revision=2, instances_sha256="1" * 64, last_instance_id=0)
        session.add(later)
        session.flush()
        return later.id


def test_no_report_tells_that_a_scout_has_no_score(tmp_path):
    node = asks_for_refusals(tmp_path / "home")
    job_id = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(Outcome("1.2", "not_eligible", "localizer", "a scout")), job_id)
    assert job_of(node, job_id).state == JobState.NOT_ELIGIBLE
    assert everything(node, OutputObject) == []
    node.close()


def test_a_series_that_cannot_be_read_fails(node):
    job_id = worker_rows.waiting_job(node)
    scoring_job.score(
        node, Scripted(Outcome("1.2", "failed", "missing_slices", "a gap of 7.5 mm at z -120")), job_id
    )
    job = job_of(node, job_id)
    assert (job.state, job.reason_code, job.reason) == (
        JobState.FAILED,
        "missing_slices",
        "a gap of 7.5 mm at z -120",
    )


def test_out_of_memory_is_tried_again_with_care(node, outcome):
    job_id = worker_rows.waiting_job(node)
    scorers = Scripted(ResourcesError("out of memory"), outcome)
    scoring_job.score(node, scorers, job_id)
    assert job_of(node, job_id).state == JobState.WAITING
    assert job_of(node, job_id).reason_code == "resources"
    time.sleep(0.05)  # not_before: the first wait is 0.01 s here
    scoring_job.score(node, scorers, job_id)
    assert [careful for _, careful in scorers.calls] == [False, True]
    assert job_of(node, job_id).state == JobState.SCORED
    assert job_of(node, job_id).reason_code is None


def test_wrong_weights_wait_for_an_operator(node):
    job_id = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(WeightsError("sha256 differs")), job_id)
    assert job_of(node, job_id).state == JobState.WAITING


def test_an_unexpected_error_fails_the_job_without_a_word_about_the_patient(node, caplog):
    job_id = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(KeyError("Mustermann^Max")), job_id)
    job = job_of(node, job_id)
    assert (job.state, job.reason_code) == (JobState.FAILED, "internal_error")
    told = f"{job.reason} {caplog.text} {[one.detail for one in everything(node, JobEvent)]}"
    assert "KeyError" in told
    assert "Mustermann" not in told


def test_a_database_that_restarts_in_the_middle_of_a_job_is_not_the_series_fault(node, outcome):
    job_id = worker_rows.waiting_job(node)
    gone = OperationalError("SELECT", {}, RuntimeError("the server closed the connection"))
    networks = Scripted(gone, outcome)
    scoring_job.score(node, networks, job_id)
    assert (job_of(node, job_id).state, job_of(node, job_id).reason_code) == (
        JobState.WAITING,
        "database_unavailable",
    )
    peers.wait_for(
        lambda: scoring_job.score(node, networks, job_id) or job_of(node, job_id).state == JobState.SCORED
    )


def test_a_full_disk_is_tried_again(node, outcome, monkeypatch):
    job_id = worker_rows.waiting_job(node)

    def full(*_):
        raise ResourcesError("the store cannot write: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(node.store, "put", full)
        scoring_job.score(node, Scripted(outcome), job_id)
    assert job_of(node, job_id).state == JobState.WAITING
    assert everything(node, OutputObject) == []


def test_urgent_jobs_go_first(node, outcome):
    normal, urgent = worker_rows.waiting_job(node), worker_rows.waiting_job(node)
    with node.database.transaction() as session:
        session.get_one(Job, urgent).lane = "urgent"
    # The two jobs would write the same report; each needs its own source.
    other = samples.series(SeriesInstanceUID="1.2.3.4")
    second = replace(outcome, series=other)
    scoring_job.score(node, Scripted(outcome, second), normal)
    with node.database.reading() as session:
        claims = [one.job_id for one in session.query(JobEvent).filter_by(event="claim").order_by(JobEvent.id)]
    assert claims == [urgent, normal]


def test_a_hint_for_a_job_that_is_done_does_nothing(node, outcome):
    job_id = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(outcome), job_id)
    again = Scripted(outcome)
    scoring_job.score(node, again, job_id)
    scoring_job.score(node, again, "no such job")
    assert again.calls == []


def test_the_lease_is_renewed_while_the_work_goes_on(tmp_path, outcome):
    node = worker_rows.node(tmp_path / "home", lease_seconds=0.4)
    job_id = worker_rows.waiting_job(node)

    def slow():
        for _ in range(6):
            time.sleep(0.2)
            assert jobs.take_back_expired(node.database) == []
        return outcome

    scoring_job.score(node, Scripted(slow), job_id)
    assert job_of(node, job_id).state == JobState.SCORED
    node.close()


def test_a_stop_hands_the_job_back_and_the_late_result_is_dropped(node, outcome):
    job_id = worker_rows.waiting_job(node)
    started, go = threading.Event(), threading.Event()

    def slow():
        started.set()
        assert go.wait(10)
        return outcome

    worker = threading.Thread(target=scoring_job.score, args=(node, Scripted(slow), job_id))
    worker.start()
    assert started.wait(10)
    node.hand_back_all()
    job = job_of(node, job_id)
    assert (job.state, job.attempts, job.kills) == (JobState.WAITING, 0, 0)
    go.set()
    worker.join(20)
    assert job_of(node, job_id).state == JobState.WAITING
    assert everything(node, Result) == []


def test_a_cancelled_job_records_nothing(node, outcome):
    job_id = worker_rows.waiting_job(node)

    def cancelled():
        jobs.cancel(node.database, job_id, "an operator")
        return outcome

    scoring_job.score(node, Scripted(cancelled), job_id)
    assert job_of(node, job_id).state == JobState.CANCELLED
    assert everything(node, Result) == []


def test_a_later_revision_names_the_report_that_left(node, outcome):
    first = worker_rows.waiting_job(node)
    scoring_job.score(node, Scripted(outcome), first)
    (sr,) = [one for one in everything(node, OutputObject) if one.kind == "sr3d"]
    with node.database.transaction() as session:
        for row in session.query(Delivery):
            row.attempts, row.state = 1, deliveries.DELIVERED
    later_id = later_revision(node, first)
    more = replace(outcome, series=replace(outcome.series, instances=outcome.series.instances[:-1]))
    scoring_job.score(node, Scripted(more), later_id)
    (new,) = [one for one in everything(node, OutputObject) if one.kind == "sr3d" and one.job_id == later_id]
    assert new.predecessor_uid == sr.sop_instance_uid
    report = pydicom.dcmread(io.BytesIO(node.store.path(new.key).read_bytes()))
    (study,) = report.PredecessorDocumentsSequence
    (of_series,) = study.ReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == pydicom.dcmread(node.store.path(sr.key)).SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in of_series.ReferencedSOPSequence] == [sr.sop_instance_uid]
