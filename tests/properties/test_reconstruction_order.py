"""Laws of the choice among reconstructions: no order of arrival or work changes its end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import database as new_database
from rows import result
from sqlalchemy import select

from calcium.reconstructions import Reconstruction, acquisitions, choose
from service import closing, jobs, reconstructions
from service.tables import Instance, Job, Series, now

FRAME = "1.2.3"


@st.composite
def candidates(draw, uid="1.2"):
    start = draw(st.sampled_from([None, 100.0, 104.0, 200.0]))
    return Reconstruction(
        series_instance_uid=uid,
        acquisition=("study", FRAME, "", draw(st.sampled_from(["1", "2"]))),
        refusal=draw(st.sampled_from([None, None, "too_thick"])),
        reformatted=draw(st.booleans()),
        sharp=draw(st.booleans()),
        thickness_mm=draw(st.sampled_from([1.0, 1.25, 3.0])),
        slices=80,
        window=None if start is None else (start, start + 5),
    )


@st.composite
def studies(draw, most=5):
    return [draw(candidates(f"1.2.{number}")) for number in range(draw(st.integers(1, most)))]


@given(studies(), st.randoms())
def test_the_choice_does_not_depend_on_the_order(study, random):
    expected = choose(study)
    shuffled = list(study)
    random.shuffle(shuffled)
    assert choose(shuffled) == expected
    parts = acquisitions(study)
    assert sorted(one.series_instance_uid for part in parts for one in part) == sorted(expected)
    for part in parts:
        (winner,) = {expected[one.series_instance_uid] for one in part}
        assert winner is None or winner in {one.series_instance_uid for one in part}
        assert (winner is None) == all(one.refusal for one in part)


@given(studies())
def test_times_part_scans_and_only_them(study):
    for part in acquisitions(study):
        assert len({one.acquisition for one in part}) == 1
        assert len({one.window is None for one in part}) == 1
        starts = sorted(one.window[0] for one in part if one.window)
        assert all(later - earlier <= 6 for earlier, later in itertools.pairwise(starts))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    made = new_database(tmp_path_factory.mktemp("order"))
    yield made
    made.dispose()


NUMBERS = itertools.count(1)


class Scan:
    """One study as it arrives and is worked on, with the steps of the node itself."""

    def __init__(self, database, study):
        self.database, self.uid = database, f"1.2.840.{next(NUMBERS)}"
        self.study = {one.series_instance_uid: one for one in study}
        self.names, self.claims = {}, {}

    def arrive(self, name):
        with self.database.transaction() as session:
            uid = f"{self.uid}.{name}"  # equals are told apart by their UIDs, here as in the expectation
            series = Series(
                study_instance_uid=self.uid, series_instance_uid=uid, calling_ae="CT", called_ae="A",
                closed_at=now(),
            )  # fmt: skip
            session.add(series)
            session.flush()
            slice_ = Instance(
                series_id=series.id, sop_instance_uid=uid, sop_class_uid="1.2", transfer_syntax_uid="1.2",
                key=f"inbox/{uid}", size_bytes=1, sha256="0" * 64,
            )  # fmt: skip
            session.add(slice_)
            session.flush()
            job = Job(series_id=series.id, instances_sha256="0" * 64, last_instance_id=slice_.id)
            session.add(job)
            session.flush()
            self.names[job.series_id] = name

    def waiting(self):
        mine = select(Job.id).join(Series).where(Series.study_instance_uid == self.uid, Job.state == "waiting")
        with self.database.reading() as session:
            return session.scalars(mine.order_by(Job.series_id)).all()

    def begin(self, job_id):
        """Claim a job; end it at once where another series is chosen."""
        claimed = jobs.claim(self.database, job_id, "w")
        one = self.study[self.names[claimed.series_id]]
        reconstructions.describe(self.database, [(job_id, one)])
        verdict = jobs.choose(self.database, claimed)
        if verdict.chosen is not None:
            jobs.finish_outdone(self.database, claimed, verdict)
        else:
            self.claims[job_id] = claimed

    def end(self, job_id, broken):
        claimed = self.claims.pop(job_id)
        if self.names[claimed.series_id] in broken:
            jobs.finish_failed(self.database, claimed, "missing_slices", "a gap")
            return
        try:
            jobs.finish_scored(self.database, claimed, result(job_id, 10.0), [], ())
        except jobs.OutdoneError as error:
            jobs.finish_outdone(self.database, claimed, error.verdict)

    def take_over(self):
        closing.let_others_take_over(self.database, now() - timedelta(hours=1))

    def states(self):
        with self.database.reading() as session:
            rows = session.execute(
                select(Job, Series.id).join(Series).where(Series.study_instance_uid == self.uid)
                .order_by(Job.revision)
            ).all()  # fmt: skip
        return {self.names[series_id]: (job.state, job.reason_code) for job, series_id in rows}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_score_ends_with_the_best_that_can_be_scored(database, data):
    study = [replace(one, refusal=None) for one in data.draw(studies(most=4))]
    broken = data.draw(st.sets(st.sampled_from([one.series_instance_uid for one in study])))
    scan = Scan(database, study)
    coming = data.draw(st.permutations([one.series_instance_uid for one in study]))
    for _ in range(60):
        steps = [("arrive", coming[0])] if coming else []
        steps += [("begin", one) for one in scan.waiting()] + [("end", one) for one in scan.claims]
        if not steps:
            scan.take_over()
            if not scan.waiting():
                break
            continue
        step, what = data.draw(st.sampled_from(steps))
        if step == "arrive":
            scan.arrive(coming.pop(0))
        elif step == "begin":
            scan.begin(what)
        else:
            scan.end(what, broken)
    final = scan.states()
    sound = [
        replace(one, refusal="missing_slices" if one.series_instance_uid in broken else None) for one in study
    ]
    for name, winner in choose(sound).items():
        if winner == name:
            assert final[name] == ("scored", None)
        elif name not in broken:
            assert final[name][0] in {"not_eligible", "superseded"}
            assert final[name][1] == reconstructions.REASON
        else:
            assert final[name][0] in {"failed", "not_eligible"}
