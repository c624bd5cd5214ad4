"""The jobs API: lists, pages, details, results and actions."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest
import rows
from api_client import serving

from service import jobs as job_steps
from service.settings import Settings
from service.tables import Delivery, Job, OutputObject, Series, now


@pytest.fixture
def database(tmp_path):
    made = rows.database(tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def api(database, tmp_path):
    with serving(Settings(home=tmp_path), database) as client:
        yield client


def add(database, **columns):
    with database.transaction() as session:
        return rows.add_job(session, **columns).id


def test_an_empty_node_lists_nothing(api):
    assert api.get("/api/v1/jobs").json() == {"jobs": [], "next": None}


def test_pages_follow_each_other_without_gap_or_repeat(api, database):
    start = now()
    # Several jobs of one moment: the id decides their order.
    made = [add(database, agatston=1.0, at=start - timedelta(seconds=number // 3)) for number in range(20)]
    seen, cursor = [], None
    while True:
        answer = api.get("/api/v1/jobs", params={"limit": 4} | ({"cursor": cursor} if cursor else {})).json()
        seen += [one["id"] for one in answer["jobs"]]
        cursor = answer["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 20
    assert set(seen) == set(made)


def test_a_job_that_comes_meanwhile_shifts_no_page(api, database):
    for _ in range(4):
        add(database)
    first = api.get("/api/v1/jobs", params={"limit": 2}).json()
    add(database)
    second = api.get("/api/v1/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    assert not {one["id"] for one in first["jobs"]} & {one["id"] for one in second["jobs"]}


def test_filters_by_state_lane_and_time(api, database):
    add(database, state="failed")
    add(database, state="waiting", lane="urgent")
    add(database, agatston=3.0, at=now() - timedelta(days=3))

    def count(**params):
        return len(api.get("/api/v1/jobs", params=params).json()["jobs"])

    assert count(state="failed") == 1
    assert count(state=["failed", "waiting"]) == 2
    assert count(lane="urgent") == 1
    assert count(since=(now() - timedelta(days=1)).isoformat()) == 2
    assert count(until=(now() - timedelta(days=1)).isoformat()) == 1


def test_a_series_is_searched_by_body_only(api, database):
    job_id = add(database, agatston=5.0)
    add(database, agatston=5.0)
    wanted = api.get(f"/api/v1/jobs/{job_id}").json()
    for key in ("series_instance_uid", "study_instance_uid"):
        found = api.post("/api/v1/jobs/search", json={key: wanted[key]}).json()["jobs"]
        assert [one["id"] for one in found] == [job_id]
    assert api.post("/api/v1/jobs/search", json={"series_instance_uid": "1.2.3"}).json()["jobs"] == []


def test_a_scored_job_shows_everything(api, database):
    job = api.get(f"/api/v1/jobs/{add(database, agatston=412.0)}").json()
    assert job["result"]["agatston"] == 412.0
    assert job["risk_group"] == job["result"]["risk_group"] == "high"
    assert [one["event"] for one in job["events"]] == ["open", "claim", "score"]
    assert job["events"][-1]["actor"] == "worker@host:7", "a lease's token is a secret of its worker"
    assert job["objects"][0]["deliveries"][0]["state"] == "delivered"
    assert job["instances"] == 2
    assert job["deliveries"] == {"delivered": 1}


def test_a_job_without_a_score_has_no_number(api, database):
    job_id = add(database, state="not_eligible", reason_code="contrast_enhanced", reason="contrast-enhanced")
    result = api.get(f"/api/v1/jobs/{job_id}/result").json()
    assert result["agatston"] is None
    assert result["risk_group"] is None
    assert (result["status"], result["reason"]) == ("not_eligible", "contrast-enhanced")
    (row,) = csv.DictReader(io.StringIO(api.get(f"/api/v1/jobs/{job_id}/result/csv").text))
    assert row["agatston"] == ""
    for form in ("fhir", "hl7"):
        answer = api.get(f"/api/v1/jobs/{job_id}/result/{form}")
        assert answer.status_code == 409
        assert "contrast-enhanced" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", "/result", "/result/csv", "/result/fhir", "/result/hl7"])
def test_unknown_jobs_are_404(api, path):
    assert api.get(f"/api/v1/jobs/11111111-1111-4111-8111-111111111111{path}").status_code == 404


@pytest.mark.parametrize(
    ("state", "action", "after"),
    [
        ("failed", "rerun", "waiting"),
        ("quarantined", "rerun", "waiting"),
        ("waiting", "cancel", "cancelled"),
        ("running", "cancel", "cancelled"),
        ("waiting", "force", "waiting"),
        ("not_eligible", "force", "waiting"),
        ("scored", "rerun", None),
        ("scored", "cancel", None),
        ("running", "force", None),
        ("superseded", "rerun", None),
        ("waiting", "deliver-again", None),
    ],
)
def test_actions(api, database, state, action, after):
    job_id = add(database, state=state)
    answer = api.post(f"/api/v1/jobs/{job_id}/{action}")
    job = api.get(f"/api/v1/jobs/{job_id}").json()
    if after is None:
        assert (answer.status_code, job["state"]) == (409, state)
        assert answer.json()["code"] == "not_allowed"
        return
    assert answer.json() == {"id": job_id, "state": after}
    assert job["state"] == after
    assert job["events"][-1]["actor"] == "loopback"
    assert job["lane"] == ("urgent" if action == "force" else "normal")


def test_a_forced_job_runs_before_the_others(api, database):
    add(database, state="waiting", at=now() - timedelta(hours=1))
    late = add(database, state="waiting")
    api.post(f"/api/v1/jobs/{late}/force")
    assert job_steps.claim_next(database, "worker@test:1").job_id == late


def test_delivering_again_sends_what_is_not_under_way(api, database):
    with database.transaction() as session:
        job = rows.add_job(session, agatston=12.0)
        rows.add_object(session, job, "refused", kind="summary")
        rows.add_object(session, job, "pending", kind="pdf")
        job_id = job.id
    answer = api.post(f"/api/v1/jobs/{job_id}/deliver-again")
    assert len(answer.json()["deliveries"]) == 2
    with database.reading() as session:
        states = session.query(Delivery.state).join(OutputObject).filter(OutputObject.job_id == job_id).all()
    assert [row[0] for row in states] == ["pending"] * 3
    assert api.post(f"/api/v1/jobs/{job_id}/deliver-again").status_code == 409
    assert api.get(f"/api/v1/jobs/{job_id}").json()["events"][-1]["event"] == "deliver_again"


def test_an_arriving_series_can_be_completed(api, database):
    with database.transaction() as session:
        job = rows.add_job(session, state="waiting", instances=3)
        series = session.get(Series, job.series_id)
        session.delete(session.get(Job, job.id))
        series.closed_at = series.closed_by = None
        series_id = series.id
    (open_one,) = api.get("/api/v1/series", params={"arriving": True}).json()["series"]
    assert (open_one["id"], open_one["instances"], open_one["closed_at"]) == (series_id, 3, None)
    closed = api.post(f"/api/v1/series/{series_id}/complete").json()
    assert closed["closed_by"] == "forced"
    (job,) = api.get("/api/v1/jobs").json()["jobs"]
    assert job["state"] == "waiting"
    assert api.post("/api/v1/series/999/complete").status_code == 404
    assert api.get("/api/v1/series", params={"arriving": True}).json()["series"] == []
    assert len(api.get("/api/v1/series").json()["series"]) == 1


def test_alerts_stay_until_acknowledged(api, database):
    with database.transaction() as session:
        rows.add_alert(session)
    (alert,) = api.get("/api/v1/alerts").json()
    api.post(f"/api/v1/alerts/{alert['id']}/acknowledge")
    assert api.get("/api/v1/alerts").json() == []
    assert len(api.get("/api/v1/alerts", params={"acknowledged": True}).json()) == 1
    assert api.post("/api/v1/alerts/999/acknowledge").status_code == 404


def test_csv_of_a_hostile_reason_runs_in_no_spreadsheet(api, database):
    job_id = add(database, state="failed", reason='=HYPERLINK("http://evil")')
    (row,) = csv.DictReader(io.StringIO(api.get(f"/api/v1/jobs/{job_id}/result/csv").text))
    assert row["reason"].startswith("'=")


def test_status_counts(api, database):
    with database.transaction() as session:
        rows.beats(session)
        rows.add_job(session, agatston=50.0)
        rows.add_job(session, state="waiting", at=now() - timedelta(minutes=5))
        rows.add_job(session, agatston=50.0, delivery="pending")
    status = api.get("/api/v1/status").json()
    assert status["jobs"] == {"scored": 2, "waiting": 1}
    assert status["groups_last_day"] == {"moderate": 2}
    assert status["deliveries"] == {"delivered": 1, "pending": 1}
    assert 290 < status["waiting_seconds"] < 330
    assert status["ready"] is True


def test_readiness_fails_by_each_of_its_checks(api, database, tmp_path):
    answer = api.get("/health/ready")
    assert answer.status_code == 503
    faults = {one["name"] for one in answer.json()["checks"] if not one["ok"]}
    assert faults == {"scp", "worker"}
    with database.transaction() as session:
        rows.beats(session)
    with serving(Settings(home=tmp_path, disk_min_free_mb=10**9), database) as full:
        faults = {one["name"] for one in full.get("/health/ready").json()["checks"] if not one["ok"]}
        assert faults == {"disk"}
    with serving(Settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0"), database) as cut:
        faults = {one["name"] for one in cut.get("/health/ready").json()["checks"] if not one["ok"]}
        assert faults == {"broker"}


def test_an_old_beat_is_a_dead_process(database, tmp_path):
    with database.transaction() as session:
        rows.beats(session, "scp", "worker")
        session.get(rows.ProcessBeat, "worker@test:1").seen_at = datetime.now(UTC) - timedelta(minutes=5)
    with serving(Settings(home=tmp_path), database) as api:
        checks = {one["name"]: one for one in api.get("/health/ready").json()["checks"]}
    assert checks["scp"]["ok"]
    assert not checks["worker"]["ok"]
    assert "5 minutes" in checks["worker"]["text"]
