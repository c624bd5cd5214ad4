"""Laws of routing: deterministic, each destination by itself, and a longer rule never takes more."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from service.routing import route, written
from service.rules import HEADER_KEYS, Facts
from service.settings import Destination

KINDS = ("sr3d", "sr", "summary", "seg", "pdf", "not_eligible")
GROUPS = ("very low", "low", "moderate", "moderately high", "high")
texts = st.text("aBü-1 ", max_size=3)
patterns = st.one_of(st.just("*"), st.text("aBü-1 *?", min_size=1, max_size=3))
addresses = st.sampled_from(["", "10.1.2.3", "10.2.0.1", "::ffff:10.1.2.3", "fe80::1"])
networks = st.sampled_from(["10.1.0.0/16", "10.0.0.0/8", "fe80::/10", "10.2.0.1"])


def some(values):
    return st.lists(values, min_size=1, max_size=2, unique=True)


@st.composite
def results(draw):
    outcome = draw(st.sampled_from(["scored", "not_eligible"]))
    group = draw(st.sampled_from(GROUPS)) if outcome == "scored" else ""
    said = {key: draw(texts) for key in HEADER_KEYS}
    who = {"calling_ae": draw(st.sampled_from(["CT1", "CT2"])), "address": draw(addresses)}
    return Facts(called_ae="AGATSTON", outcome=outcome, risk_group=group, **who, **said)


RULES = {
    **dict.fromkeys(("calling_ae", "called_ae", *HEADER_KEYS), some(patterns)),
    "address": some(networks),
    "outcome": st.just(["scored"]),
    "risk_group": some(st.sampled_from(GROUPS)),
}
matches = st.fixed_dictionaries({}, optional=RULES)


@st.composite
def destinations(draw):
    count = draw(st.integers(1, 4))
    return [
        Destination(
            name=f"d{number}", aet="A", host="h", port=104, kinds=tuple(draw(some(st.sampled_from(KINDS)))),
            sources=tuple(draw(st.lists(st.sampled_from(["CT1", "CT2"]), max_size=2))), match=draw(matches),
        )
        for number in range(count)
    ]  # fmt: skip


def decided(places, facts):
    return {one.destination: one for one in route(places, facts, written(places, facts))}


@given(places=destinations(), facts=results(), shuffle=st.randoms(use_true_random=False))
def test_neither_order_nor_neighbours_nor_repetition_change_a_decision(places, facts, shuffle):
    first = decided(places, facts)
    others = list(places)
    shuffle.shuffle(others)
    assert decided(others, facts) == first
    for one in places:
        (alone,) = route([one], facts, written(places, facts))
        assert alone == first[one.name]


@given(places=destinations(), facts=results())
def test_every_kind_that_somebody_gets_is_written_and_every_kind_that_a_taker_wants_goes_there(places, facts):
    kinds = set(written(places, facts))
    for one in places:
        (decision,) = route([one], facts, kinds)
        assert set(decision.kinds) <= kinds & set(one.kinds)
        takes = decision.rule.startswith(("sources: any sender", f"sources: {facts.calling_ae} is", "kinds:"))
        if takes:
            possible = {"not_eligible"} if facts.outcome == "not_eligible" else set(KINDS) - {"not_eligible"}
            missing = set(one.kinds) & possible - set(decision.kinds)
            assert missing <= ({"sr"} if "sr3d" in decision.kinds else set())
        else:
            assert decision.kinds == ()


@given(facts=results(), match=matches, key=st.sampled_from(sorted(RULES)), data=st.data())
def test_one_more_key_never_takes_more_and_one_more_value_never_less(facts, match, key, data):
    def takes(rule):
        to = Destination(name="a", aet="A", host="h", port=104, kinds=KINDS, match=rule)
        (decision,) = route([to], facts, written([to], facts))
        return bool(decision.kinds)

    assume(key not in match)
    values = data.draw(RULES[key])
    assert takes(match | {key: values}) <= takes(match)
    assert takes(match | {key: values[:1]}) <= takes(match | {key: values})


@given(facts=results(), match=matches)
def test_upper_and_lower_case_are_alike_in_texts(facts, match):
    def takes(rule, about):
        to = Destination(name="a", aet="A", host="h", port=104, kinds=KINDS, match=rule)
        return route([to], about, written([to], about))[0].kinds

    louder = {key: [one.upper() for one in match[key]] for key in HEADER_KEYS if key in match}
    loud = facts.model_copy(update={key: getattr(facts, key).upper() for key in HEADER_KEYS})
    assert takes(match, facts) == takes(match | louder, loud)
