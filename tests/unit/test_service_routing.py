"""Where results go: several archives, one for reports, another for pictures, by sender, place and result."""

from __future__ import annotations

import json
import typing

import pydicom
import pytest
import rows
from api_client import serving

from calcium.errors import SettingsError
from calcium.risk import RiskGroup
from service import rules
from service.routing import route, written
from service.rules import Facts, Match
from service.settings import Destination, Settings

REPORTS = Destination(name="reports", aet="RIS", host="h", port=104, kinds=("sr3d", "sr"))
PICTURES = Destination(
    name="pictures", aet="PACS", host="h", port=104, kinds=("summary", "seg"), sources=("CT1",)
)
WARD = Destination(name="ward", aet="WARD", host="h", port=104, kinds=("not_eligible",), sources=("CT2", "CT3"))
ALL = (REPORTS, PICTURES, WARD)


@pytest.mark.parametrize(
    ("calling_ae", "outcome", "expected"),
    [
        ("CT1", "scored", {"reports": ("sr3d",), "pictures": ("summary", "seg"), "ward": ()}),
        ("CT2", "scored", {"reports": ("sr3d",), "pictures": (), "ward": ()}),
        ("CT2", "not_eligible", {"reports": (), "pictures": (), "ward": ("not_eligible",)}),
        ("CT9", "not_eligible", {"reports": (), "pictures": (), "ward": ()}),
    ],
)
def test_each_destination_gets_its_own(calling_ae, outcome, expected):
    facts = Facts(calling_ae=calling_ae, outcome=outcome)
    decisions = route(ALL, facts, written(ALL, facts))
    assert {one.destination: one.kinds for one in decisions} == expected


def test_the_rule_that_decided_is_told():
    decisions = route(ALL, Facts(calling_ae="CT1"), ("sr3d", "sr"))
    assert {one.destination: one.rule for one in decisions} == {
        "reports": "sources: any sender; kinds: sr3d stands for sr",
        "pictures": "kinds: only summary, seg",
        "ward": "sources: only what CT2, CT3 sent",
    }


FACTS = Facts(
    calling_ae="CT1", called_ae="AGATSTON", address="10.1.2.3", institution_name="Klinik Nord, Kiel",
    station_name="CT-EG-1", manufacturer="SIEMENS", model_name="SOMATOM Force", body_part="CHEST",
    study_description="Thorax nativ", series_description="Lunge 1.0 Br36", protocol_name="Thorax_LowDose",
    risk_group="moderately high",
)  # fmt: skip


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"institution_name": "*nord*"}, True),
        ({"institution_name": "*NORD*"}, True),
        ({"institution_name": ["*süd*", "*nord*"]}, True),
        ({"institution_name": "nord"}, False),
        ({"institution_name": "*nord*", "station_name": "CT-OG-*"}, False),
        ({"station_name": "CT-?G-1", "manufacturer": "siemens", "model_name": "somatom*"}, True),
        ({"study_description": "thorax*", "series_description": "*br3?*", "protocol_name": "*lowdose"}, True),
        ({"protocol_name": "abdomen*"}, False),
        ({"body_part": ["chest", "thorax", "lung"]}, True),
        ({"calling_ae": "CT?", "called_ae": "AGAT*"}, True),
        ({"called_ae": "URGENT"}, False),
        ({"address": "10.1.2.0/24"}, True),
        ({"address": ["10.1.2.3"]}, True),
        ({"address": ["10.1.3.0/24", "::1"]}, False),
        ({"outcome": "scored"}, True),
        ({"outcome": ["not_eligible"]}, False),
        ({"risk_group": ["moderately high", "high"]}, True),
        ({"risk_group": "high"}, False),
    ],
)
def test_what_a_rule_asks(match, fits):
    to = Destination(name="a", aet="A", host="h", port=104, kinds=("sr3d",), match=match)
    (decision,) = route([to], FACTS, ("sr3d",))
    assert (decision.kinds == ("sr3d",)) is fits
    misfit = Match.model_validate(match).first_misfit(FACTS)
    if not fits:
        assert decision.rule.startswith(f"match: {misfit} is not ")
    elif match:
        assert decision.rule == f"sources: any sender; match: {', '.join(to.match.keys)} fit"
    for key in ("institution_name", "study_description"):  # what headers say is told to nobody
        assert getattr(FACTS, key) not in decision.rule


def test_what_the_series_does_not_tell_fits_no_rule():
    unknown = Facts(calling_ae="CT1")
    assert Match(address="10.0.0.0/8").first_misfit(unknown) == "address"
    assert Match(institution_name="?*").first_misfit(unknown) == "institution_name"
    assert Match(risk_group="high").first_misfit(unknown) == "risk_group"
    assert Match(institution_name="*").first_misfit(unknown) is None


def test_facts_of_a_header():
    header = pydicom.Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.InstitutionName, header.StationName, header.ProtocolName = "Klinik Süd", " CT1 ", ["a", "b"]
    header.PatientName = "Mustermann^Max"
    facts = Facts(calling_ae="CT1").with_header(header)
    assert (facts.institution_name, facts.station_name, facts.body_part) == ("Klinik Süd", "CT1", "")
    assert "Mustermann" not in str(facts)


def test_the_keys_are_the_same_everywhere_and_none_is_about_the_patient():
    assert set(Match.model_fields) == set(Facts.model_fields)
    assert set(rules.HEADER_KEYS) < set(Match.model_fields)
    assert list(typing.get_args(rules.Group)) == [group.label for group in RiskGroup]
    assert not [keyword for keyword in rules.HEADER_KEYS.values() if keyword.startswith("Patient")]


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ({"institution": "*"}, r"match\]: institution: no key of match; its keys are calling_ae, .*risk_group"),
        ({"patient_name": "A*"}, r"patient_name: no key of match"),
        ({"risk_group": "enormous"}, r"\[match\]\[risk_group\]\[0\]: Input should be 'very low'"),
        ({"address": "10.1.2.300"}, r"\[match\]\[address\]"),
        ({"station_name": []}, r"\[match\]\[station_name\]"),
        ({"risk_group": "high", "outcome": "not_eligible"}, "would never fit"),
    ],
)
def test_wrong_rules_stop_the_start(match, says):
    destination = {"name": "a", "aet": "A", "host": "h", "port": 104, "match": match}
    with pytest.raises(SettingsError, match=says):
        Settings.load({"AGATSTON_DESTINATIONS": json.dumps([destination])})


def test_over_http(tmp_path):
    database = rows.database(tmp_path)
    high = Destination(
        name="high", aet="HIGH", host="h", port=104, kinds=("pdf",),
        match={"protocol_name": "*dose*", "risk_group": ["moderately high", "high"], "address": "10.0.0.0/8"},
    )  # fmt: skip
    settings = Settings(home=tmp_path, destinations=(*ALL, high))
    with serving(settings, database) as api:
        said = api.post("/api/v1/routing/test", json={"calling_ae": "CT1"}).json()
        assert [(one["destination"], one["kinds"]) for one in said] == [
            ("reports", ["sr3d"]), ("pictures", ["summary", "seg"]), ("ward", []), ("high", []),
        ]  # fmt: skip
        for wrong in ({"calling_ae": "A\\B"}, {"address": "here"}, {"risk_group": "x"}, {"patient_id": "1"}):
            assert api.post("/api/v1/routing/test", json={"calling_ae": "CT1"} | wrong).status_code == 422
        said = api.post("/api/v1/routing/test", json=FACTS.model_dump()).json()
        assert [one["kinds"] for one in said] == [["sr3d"], ["summary", "seg"], [], ["pdf"]]
        assert said[3]["rule"] == "sources: any sender; match: address, protocol_name, risk_group fit"
    database.dispose()
