"""Where results go: several archives, one for reports, another for pictures, by sender."""

from __future__ import annotations

import pytest
import rows
from api_client import serving

from service.routing import route, written
from service.settings import Destination, Settings

REPORTS = Destination(name="reports", aet="RIS", host="h", port=104, kinds=("sr3d", "sr"))
PICTURES = Destination(
    name="pictures", aet="PACS", host="h", port=104, kinds=("summary", "seg"), sources=("CT1",)
)
WARD = Destination(name="ward", aet="WARD", host="h", port=104, kinds=("not_eligible",), sources=("CT2", "CT3"))
ALL = (REPORTS, PICTURES, WARD)


@pytest.mark.parametrize(
    ("calling_ae", "scored", "expected"),
    [
        ("CT1", True, {"reports": ("sr3d",), "pictures": ("summary", "seg"), "ward": ()}),
        ("CT2", True, {"reports": ("sr3d",), "pictures": (), "ward": ()}),
        ("CT2", False, {"reports": (), "pictures": (), "ward": ("not_eligible",)}),
        ("CT9", False, {"reports": (), "pictures": (), "ward": ()}),
    ],
)
def test_each_destination_gets_its_own(calling_ae, scored, expected):
    decisions = route(ALL, calling_ae=calling_ae, kinds=written(ALL, scored=scored))
    assert {one.destination: one.kinds for one in decisions} == expected


def test_the_rule_that_decided_is_told():
    rules = {one.destination: one.rule for one in route(ALL, calling_ae="CT1", kinds=("sr3d", "sr"))}
    assert rules == {
        "reports": "sources: any sender; kinds: sr3d stands for sr",
        "pictures": "kinds: only summary, seg",
        "ward": "sources: only what CT2, CT3 sent",
    }


def test_over_http(tmp_path):
    database = rows.database(tmp_path)
    settings = Settings(home=tmp_path, destinations=ALL)
    with serving(settings, database) as api:
        said = api.post("/api/v1/routing/test", json={"calling_ae": "CT1"}).json()
        assert [(one["destination"], one["kinds"]) for one in said] == [
            ("reports", ["sr3d"]), ("pictures", ["summary", "seg"]), ("ward", []),
        ]  # fmt: skip
        assert api.post("/api/v1/routing/test", json={"calling_ae": "A\\B"}).status_code == 422
    database.dispose()
