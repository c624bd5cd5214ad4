"""Soft and sharp reconstructions of one scan, from files to rows and reports; the networks stand aside."""

from __future__ import annotations

from datetime import timedelta

import pydicom
import pytest
import report_samples as samples
import worker_rows
from dicom_series import pattern, series, write

from calcium.eligibility import EligibilityRules
from calcium.job import JobState
from models.pipeline import Outcome
from service import actions, closing, jobs
from service.tables import Delivery, Instance, Job, OutputObject, Series, now
from worker import scoring_job

SOFT, SHARP = "B30f", "B70f"


class Networks:
    """Stand for the networks; what else happens meanwhile is the test's to say."""

    rules = EligibilityRules()

    def __init__(self, meanwhile=lambda: None):
        self.meanwhile = meanwhile

    def score(self, paths, *, careful=False):
        uid = str(pydicom.dcmread(paths[0], stop_before_pixels=True).SeriesInstanceUID)
        self.meanwhile()
        found = samples.series(SeriesInstanceUID=uid)
        return Outcome(uid, "scored", None, None, found, samples.result(found), {"read": 0.1})


class Study:
    """A worker, and series of one study on their way to it."""

    def __init__(self, node, folder):
        self.node, self.folder, self.count = node, folder, 0

    def arrive(self, kernel, **elements):
        self.count += 1
        uid = f"2.25.88.{self.count}"
        files = write(
            series(pattern(40, 8, 8), SeriesInstanceUID=uid, ConvolutionKernel=kernel, **elements),
            self.folder / uid,
        )
        job_id = worker_rows.waiting_job(self.node, files)
        with self.node.database.transaction() as session:
            session.get_one(Job, job_id).series.series_instance_uid = uid
        return job_id

    def work(self, job_id, networks=None):
        scoring_job.score(self.node, networks or Networks(), job_id)
        return self.job(job_id)

    def job(self, job_id):
        with self.node.database.reading() as session:
            return session.get_one(Job, job_id)

    def report(self, job_id):
        with self.node.database.reading() as session:
            (row,) = session.query(OutputObject).filter_by(job_id=job_id, kind="sr3d")
        return row, pydicom.dcmread(self.node.store.path(row.key))

    def deliveries(self, job_id):
        with self.node.database.reading() as session:
            found = session.query(Delivery).join(OutputObject).filter(OutputObject.job_id == job_id)
            return list(found.order_by(Delivery.id))


@pytest.fixture
def study(tmp_path, request):
    node = worker_rows.node(
        tmp_path / "home", role="worker", pacs="PACS@127.0.0.1:9", **getattr(request, "param", {})
    )
    yield Study(node, tmp_path)
    node.close()


def test_the_sharp_one_after_the_soft_one_gets_no_score(study):
    soft, sharp = study.arrive(SOFT), study.arrive(SHARP)
    assert study.work(soft).state == JobState.SCORED
    job = study.work(sharp)
    assert (job.state, job.reason_code, job.chosen_series_uid) == (
        JobState.NOT_ELIGIBLE, "other_reconstruction", "2.25.88.1",
    )  # fmt: skip
    assert "original slices, soft kernel, 2 mm [2.25.88.1]" in job.reason
    assert study.deliveries(sharp) == []


def test_of_two_that_wait_the_better_one_is_scored_whichever_comes_first(study):
    sharp, soft = study.arrive(SHARP), study.arrive(SOFT)
    assert study.work(sharp).chosen_series_uid == "2.25.88.2"
    assert study.work(soft).state == JobState.SCORED


def test_a_better_one_that_comes_later_replaces_the_report(study):
    sharp = study.arrive(SHARP)
    assert study.work(sharp).state == JobState.SCORED
    with study.node.database.transaction() as session:
        sent, waits = session.query(Delivery).order_by(Delivery.id)
        sent.attempts, sent.state, waiting_id = 1, "delivered", waits.id
        old_object = sent.object
    soft = study.arrive(SOFT)

    def held_back():
        (found,) = [one for one in study.deliveries(sharp) if one.id == waiting_id]
        assert found.state == "pending"
        assert found.not_before > now() + timedelta(seconds=60)

    assert study.work(soft, Networks(held_back)).state == JobState.SCORED
    old = study.job(sharp)
    assert (old.state, old.reason_code, old.chosen_series_uid) == (
        JobState.SUPERSEDED, "other_reconstruction", "2.25.88.2",
    )  # fmt: skip
    assert [one.state for one in study.deliveries(sharp)] == ["delivered", "cancelled"]
    row, report = study.report(soft)
    assert row.predecessor_uid == old_object.sop_instance_uid
    # PS3.3 C.17.2.3: the document that it takes the place of, in the series where that one lies.
    (named,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old_object.sop_instance_uid
    assert named.SeriesInstanceUID == study.report(sharp)[1].SeriesInstanceUID


def test_a_better_one_that_turns_up_while_the_other_is_scored(study):
    sharp, soft = study.arrive(SHARP), study.arrive(SOFT)
    with study.node.database.transaction() as session:  # the soft one is not there yet
        later = session.get_one(Job, soft)
        study_uid, later.series.study_instance_uid = later.series.study_instance_uid, "2.25.89"

    def turns_up():
        with study.node.database.transaction() as session:
            session.get_one(Job, soft).series.study_instance_uid = study_uid
        assert study.work(soft).state == JobState.SCORED

    job = study.work(sharp, Networks(turns_up))
    # Nobody had looked at the sharp one when the soft one began: it did not know of a rival in the making.
    assert {job.state, study.job(soft).state} == {JobState.NOT_ELIGIBLE, JobState.SCORED}
    with study.node.database.reading() as session:
        kept = {one.key for one in session.query(OutputObject)}
    assert set(study.node.store.keys("outbox")) == kept


def test_a_failure_lets_the_next_best_take_over(study):
    sharp, soft = study.arrive(SHARP), study.arrive(SOFT)
    assert study.work(sharp).reason_code == "other_reconstruction"

    class Broken(Networks):
        def score(self, paths, *, careful=False):
            return Outcome("1.2", "failed", "missing_slices", "a gap of 6 mm")

    before = now()
    assert study.work(soft, Broken()).state == JobState.FAILED
    assert closing.let_others_take_over(study.node.database, before) == [sharp]
    assert study.work(sharp).state == JobState.SCORED
    assert closing.let_others_take_over(study.node.database, before) == []


def test_a_person_may_want_the_other_one_too(study):
    soft, sharp = study.arrive(SOFT), study.arrive(SHARP)
    study.work(soft)
    assert study.work(sharp).state == JobState.NOT_ELIGIBLE
    actions.rerun(study.node.database, study.node.dispatcher, sharp, "operator")
    assert study.work(sharp).state == JobState.SCORED
    assert study.job(soft).state == JobState.SCORED
    assert study.report(sharp)[0].predecessor_uid is None


@pytest.mark.parametrize("study", [{"reconstructions": "all"}], indirect=True)
def test_a_site_may_have_all_scored(study):
    assert [study.work(study.arrive(kernel)).state for kernel in (SOFT, SHARP)] == ["scored", "scored"]


def test_another_scan_is_scored_for_itself(study):
    first, second = study.arrive(SOFT), study.arrive(SHARP, AcquisitionNumber=2)
    third = study.arrive(SHARP, AcquisitionTime="101500")
    ended = [study.work(one) for one in (first, second, third)]
    assert [(job.state, job.reason) for job in ended] == [(JobState.SCORED, None)] * 3


def test_an_unsuitable_one_says_its_own_reason(study):
    soft, thick = study.arrive(SOFT), study.arrive(SOFT, thickness=5.0)
    study.work(soft)
    with study.node.database.reading() as session:
        session.get_one(Job, thick)

    class Screens(Networks):
        def score(self, paths, *, careful=False):
            return Outcome("1.2", "not_eligible", "too_thick", "slices of 5 mm")

    assert study.work(thick, Screens()).reason_code == "too_thick"


@pytest.mark.parametrize("study", [{"reconstruction_wait_seconds": "30"}], indirect=True)
def test_a_job_waits_a_while_for_a_series_that_arrives(study):
    sharp, soft = study.arrive(SHARP), study.arrive(SOFT)
    database = study.node.database
    with database.transaction() as session:
        arriving = session.get_one(Job, soft).series
        arriving.closed_at = None
        arriving_id = arriving.id
    assert study.work(sharp).state == JobState.WAITING
    assert jobs.take_for_dispatch(database, older_than=None, settle_seconds=30) == []
    with database.transaction() as session:  # a dose report needs no waiting for
        session.query(Instance).filter_by(series_id=arriving_id).update({"sop_class_uid": "1.2.3"})
    assert jobs.take_for_dispatch(database, older_than=None, settle_seconds=30) == [(sharp, "normal")]
    with database.transaction() as session:
        session.query(Instance).filter_by(series_id=arriving_id).update(
            {"sop_class_uid": samples.CT_IMAGE_STORAGE}
        )
        session.get_one(Job, sharp).created_at = now() - timedelta(seconds=31)
    job = study.work(sharp)  # it has waited long enough; the other one is here but not whole
    assert job.state in {JobState.SCORED, JobState.NOT_ELIGIBLE}
    with database.transaction() as session:
        session.get_one(Series, arriving_id).closed_at = now()
    study.work(soft)
    assert study.job(soft).state == JobState.SCORED
    assert study.job(sharp).state in {JobState.SUPERSEDED, JobState.NOT_ELIGIBLE}
