"""A soak at the rate that the node sustains: memory, descriptors and latency stay flat.

AGATSTON_SOAK_SECONDS (default 1800) and AGATSTON_SOAK_SCANNERS (default 3) make it shorter or harder;
AGATSTON_SOAK_OUT names a folder for table and plot.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path

import node as nodes
import peers
import pytest
import soaking
import traffic
from sqlalchemy import func, select

from service import deliveries
from service.database import Database
from service.tables import Alert, Delivery, Job

SECONDS = float(os.environ.get("AGATSTON_SOAK_SECONDS", "1800"))
SCANNERS = int(os.environ.get("AGATSTON_SOAK_SCANNERS", "3"))
# Growth of the resident memory from the early to the late part that is still flat: the greater of both.
GROWTH_MIB, GROWTH = 16.0, 0.10
DESCRIPTORS = 4  # of a pool that breathes
LATENCY = 2.0  # late median / early median: other work on the machine moves it, a leak would move it on and on
SETTLE_SECONDS = 600


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 900)
def test_memory_descriptors_and_latency_stay_flat(tmp_path, new_postgres_database, redis_url):
    slices = traffic.template(tmp_path / "template")
    database = Database(new_postgres_database)
    with peers.storescp(tmp_path / "pacs", "--ignore") as pacs:
        settings = {
            "database_url": new_postgres_database, "broker_url": redis_url, "pacs": pacs.address,
            "series_release_seconds": 1, "threads": os.environ.get("AGATSTON_THREADS", "1"),
        }  # fmt: skip
        with nodes.running_node(tmp_path / "home", **settings) as node:
            found = soaking.soak(node, database, slices, SECONDS, scanners=SCANNERS)

            def ended():
                with database.reading() as session:
                    jobs = session.scalar(
                        select(func.count()).select_from(Job).where(Job.ended_at.is_not(None))
                    )
                    left = session.scalar(
                        select(func.count()).select_from(Delivery).where(Delivery.state.in_(deliveries.OPEN))
                    )
                return jobs >= found.series and not left

            peers.wait_for(ended, seconds=SETTLE_SECONDS, what=f"the end of all jobs; see {node.log}")
    soaking.add_results(found, database)
    out = os.environ.get("AGATSTON_SOAK_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "soak.json").write_text(json.dumps(asdict(found)), encoding="utf-8")
    print(soaking.table(found))  # noqa: T201 (the figures)
    if out:
        (Path(out) / "soak.md").write_text(soaking.table(found) + "\n", encoding="utf-8")
        soaking.plot(found, Path(out) / "soak.png")
    with database.reading() as session:
        states = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        alerts = session.scalars(select(Alert.kind)).all()
    database.dispose()
    assert set(states) == {"scored", "not_eligible"}
    assert sum(states.values()) == found.series
    assert alerts == []
    for role in found.samples[-1].rss_mib:
        early, late = (found.held("rss_mib", role, *part) for part in (soaking.EARLY, soaking.LATE))
        assert late - early <= max(GROWTH_MIB, GROWTH * early), (
            f"{role} grew from {early:.0f} to {late:.0f} MiB"
        )
        early, late = (found.held("descriptors", role, *part) for part in (soaking.EARLY, soaking.LATE))
        assert late - early <= DESCRIPTORS, f"{role} holds {late:.0f} descriptors, before {early:.0f}"
    for name, pairs in (("C-STORE", found.stores), ("report", found.results)):
        early, late = (statistics.median(found.window(pairs, *part)) for part in (soaking.EARLY, soaking.LATE))
        assert late <= LATENCY * early, f"{name}: {early:.2f} s became {late:.2f} s"
