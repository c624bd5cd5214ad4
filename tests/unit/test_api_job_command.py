"""`agatston job`, and moments and days as people type them."""

from __future__ import annotations

import argparse
import datetime as dt
import json

import hypothesis.strategies as st
import pytest
import rows
from hypothesis import given

from service import cli, moments
from service.tables import Job

TODAY = dt.datetime(2026, 11, 25, 9, 30, tzinfo=dt.UTC)


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("AGATSTON_DATABASE_URL", "AGATSTON_BROKER_URL", "AGATSTON_PACS", "AGATSTON_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGATSTON_HOME", str(tmp_path))
    database = rows.database(tmp_path)
    with database.transaction() as session:
        scored = rows.add_job(session, agatston=412.0).id
        failed = rows.add_job(
            session, state="failed", reason_code="missing_slices", reason="a gap of 7.5 mm"
        ).id
    yield scored, failed, database
    database.dispose()


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_list_and_filters(home, capsys):
    scored, failed, _ = home
    assert cli.main(["job", "list"]) == 0
    first, second = lines(capsys)
    assert first.startswith(failed)
    assert "a gap of 7.5 mm" in first
    assert second.startswith(scored)
    assert "412 high" in second
    cli.main(["job", "list", "--state", "failed", "--since", "1h", "--json"])
    (only,) = map(json.loads, lines(capsys))
    assert only["id"] == failed
    cli.main(["job", "list", "--series", "1.2.3"])
    assert lines(capsys) == []
    cli.main(["job", "list", "--limit", "1"])
    assert "there are more" in capsys.readouterr().err


def test_show(home, capsys):
    scored, failed, _ = home
    cli.main(["job", "show", scored])
    shown = "\n".join(lines(capsys))
    assert "412, high" in shown
    assert "delivered" in shown
    cli.main(["job", "show", failed, "--json"])
    assert json.loads(capsys.readouterr().out)["reason_code"] == "missing_slices"


def test_actions_change_the_row_and_exit_codes_tell(home, capsys):
    scored, failed, database = home

    def state(job_id):
        with database.reading() as session:
            return session.get(Job, job_id).state

    assert cli.main(["job", "rerun", failed]) == 0
    assert state(failed) == "waiting"
    assert cli.main(["job", "force", failed]) == 0
    assert cli.main(["job", "cancel", failed]) == 0
    assert state(failed) == "cancelled"
    assert cli.main(["job", "deliver-again", scored]) == 0
    capsys.readouterr()
    assert cli.main(["job", "rerun", scored]) == 1
    assert "scored" in capsys.readouterr().err
    assert cli.main(["job", "show", "11111111-1111-4111-8111-111111111111"]) == 1
    with pytest.raises(SystemExit) as usage:
        cli.main(["job", "show", "not-an-id"])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("yesterday", "2026-11-24T00:00"),
        ("today", "2026-11-25T00:00"),
        ("2h", "2026-11-25T07:30"),
        ("3d", "2026-11-22T09:30"),
        ("15min", "2026-11-25T09:15"),
        ("2026-11-01T08:00+00:00", "2026-11-01T08:00"),
    ],
)
def test_since(text, moment):
    expected = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
    if text in {"today", "yesterday"}:  # a day begins by the clock on the wall
        expected = dt.datetime.fromisoformat(moment).astimezone(dt.UTC)
    assert moments.since(text, today=TODAY) == expected


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("yesterday", "20261124"), ("today", "20261125"), ("2026-11-01", "20261101"), ("20261101", "20261101"),
        ("2026-11-01-", "20261101-"), ("-20261101", "-20261101"), ("20261101-20261125", "20261101-20261125"),
        ("2026-11-01-2026-11-25", "20261101-20261125"),
    ],
)  # fmt: skip
def test_dates(text, matched):
    assert moments.dates(text, today=TODAY.date()) == matched


@pytest.mark.parametrize("text", ["", "-", "tomorrow", "2026-13-01", "20260230", "2026110120261125", "1.2.3"])
def test_what_is_no_day_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        moments.dates(text, today=TODAY.date())


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_a_usage_error(text):
    for read in (moments.since, moments.dates):
        try:
            read(text)
        except argparse.ArgumentTypeError:
            continue


@given(st.dates(), st.dates())
def test_ranges_keep_their_days(first, last):
    matched = "-".join(str(day).replace("-", "") for day in (first, last))
    assert moments.dates(f"{first}-{last}") == matched
