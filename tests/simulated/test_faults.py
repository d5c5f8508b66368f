"""The fault dial by itself, and over HTTP at a running simulator."""

from collections import Counter

import aiohttp
import pytest

from providers.simulated import Dial, Fault, FaultKind, FaultProblem, Options, Step, start
from providers.simulated.faults import MEANINGS, fault_json, parse_faults

OFFER = {
    Step.SUBMIT: frozenset({FaultKind.OVERLOADED, FaultKind.THROTTLED, FaultKind.SLOW}),
    Step.POLL: frozenset({FaultKind.OVERLOADED}),
    Step.RESULT: frozenset({FaultKind.EXPIRED}),
}


def draw(dial: Dial, times: int, **request) -> list[FaultKind | None]:
    drawn = [dial.draw(Step.SUBMIT, **request) for _ in range(times)]
    return [fault.kind if fault else None for fault in drawn]


def test_nothing_goes_wrong_on_an_empty_dial():
    assert draw(Dial(OFFER, "1"), 5) == [None] * 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_share_is_met_within_a_few_percent(share):
    dial = Dial(OFFER, "1", (Fault(kind=FaultKind.OVERLOADED, share=share),))
    met = Counter(draw(dial, 4000))[FaultKind.OVERLOADED] / 4000

    assert share == pytest.approx(met, abs=0.03)
    if share in (0.0, 1.0):
        assert share == met


def test_the_same_seed_meets_the_same_faults_and_another_seed_others():
    faults = (Fault(kind=FaultKind.OVERLOADED, share=0.3), Fault(kind=FaultKind.THROTTLED, share=0.3))
    drawn = [draw(Dial(OFFER, seed, faults), 200) for seed in ("1", "1", "2")]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert {None, FaultKind.OVERLOADED, FaultKind.THROTTLED} == set(drawn[0])


def test_a_row_that_changes_does_not_move_the_dice_of_another():
    throttled = Fault(kind=FaultKind.THROTTLED, share=0.4)
    alone = Dial(OFFER, "1", (Fault(kind=FaultKind.OVERLOADED, share=0), throttled))
    beside = Dial(OFFER, "1", (Fault(kind=FaultKind.OVERLOADED, share=0.5), throttled))
    pairs = list(zip(draw(alone, 200), draw(beside, 200), strict=True))

    assert all(one == other for one, other in pairs if other is not FaultKind.OVERLOADED)


def test_first_counts_the_matching_requests_and_then_the_row_is_silent():
    dial = Dial(OFFER, "1", (Fault(kind=FaultKind.OVERLOADED, first=3, model="gpt"),))

    assert draw(dial, 2, model="flux") == [None] * 2
    assert draw(dial, 5, model="gpt-image-2") == [FaultKind.OVERLOADED] * 3 + [None] * 2
    assert dial.hits == {FaultKind.OVERLOADED: 3}


def test_model_and_prompt_must_both_occur():
    dial = Dial(OFFER, "1", (Fault(kind=FaultKind.SLOW, model="image", prompt="cat"),))

    cases = (("gpt-image-2", "a cat"), ("gpt-image-2", "a dog"), ("flux", "a cat"))
    assert [dial.draw(Step.SUBMIT, model=m, prompt=p) is not None for m, p in cases] == [True, False, False]


def test_the_first_row_that_hits_is_carried_out_and_setting_starts_anew():
    dial = Dial(OFFER, "1", (Fault(kind=FaultKind.THROTTLED, first=1), Fault(kind=FaultKind.OVERLOADED)))
    assert draw(dial, 2) == [FaultKind.THROTTLED, FaultKind.OVERLOADED]

    dial.set(*dial.faults)
    assert draw(dial, 1) == [FaultKind.THROTTLED]
    dial.clear()
    assert draw(dial, 1) == [None]


def test_a_row_strikes_at_its_step_only_and_the_step_is_filled_in():
    dial = Dial(OFFER, "1", (Fault(kind=FaultKind.EXPIRED), Fault(kind=FaultKind.OVERLOADED, at=Step.POLL)))

    assert [fault.at for fault in dial.faults] == [Step.RESULT, Step.POLL]
    drawn = {step: dial.draw(step) for step in Step}
    assert drawn[Step.SUBMIT] is None
    assert (drawn[Step.POLL].kind, drawn[Step.RESULT].kind) == (FaultKind.OVERLOADED, FaultKind.EXPIRED)


def test_a_row_that_the_provider_cannot_show_is_refused_by_name():
    with pytest.raises(ValueError, match=r"faults\[1\]\.kind"):
        Dial(OFFER, "1", (Fault(kind=FaultKind.SLOW), Fault(kind=FaultKind.HTML)))


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ("x", "faults"),
        ({"faults": 1}, "faults"),
        ([1], "faults[0]"),
        ([{}], "faults[0].kind"),
        ([{"kind": "storm"}], "faults[0].kind"),
        ([{"kind": "html"}], "faults[0].kind"),
        ([{"kind": "slow", "at": "poll"}], "faults[0].at"),
        ([{"kind": "slow"}, {"kind": "slow", "share": 1.5}], "faults[1].share"),
        ([{"kind": "slow", "share": float("nan")}], "faults[0].share"),
        ([{"kind": "slow", "share": True}], "faults[0].share"),
        ([{"kind": "slow", "first": 1.5}], "faults[0].first"),
        ([{"kind": "slow", "first": -1}], "faults[0].first"),
        ([{"kind": "slow", "seconds": "9"}], "faults[0].seconds"),
        ([{"kind": "slow", "prompt": 9}], "faults[0].prompt"),
        ([{"kind": "slow", "often": 1}], "faults[0].often"),
        ([{"kind": "slow"}] * 101, "faults"),
    ],
)
def test_bad_rows_in_json_are_refused_with_the_field(document, field):
    problem = parse_faults(document, OFFER)

    assert isinstance(problem, FaultProblem)
    assert field == problem.field


def test_rows_survive_the_way_through_json():
    faults = Dial(OFFER, "1", (Fault(kind=FaultKind.SLOW, share=0.5, first=2, model="m", seconds=3.5),)).faults

    assert faults == parse_faults({"faults": [fault_json(fault) for fault in faults]}, OFFER)


def test_every_kind_has_its_sentence():
    assert set(FaultKind) == set(MEANINGS)


async def test_the_dial_is_read_and_set_over_http_and_a_bad_row_changes_nothing():
    async with start("openai", options=Options(time_scale=0.001)) as upstream, aiohttp.ClientSession() as http:
        url = f"{upstream.origin}/_simulator/faults"
        async with http.put(url, json={"faults": [{"kind": "overloaded", "first": 1}]}) as answer:
            assert [row["kind"] for row in (await answer.json())["faults"]] == ["overloaded"]
        async with http.put(url, json=[{"kind": "no_cost"}]) as answer:
            assert (answer.status, (await answer.json())["error"]["field"]) == (400, "faults[0].kind")
        async with http.put(url, data=b"{") as answer:
            assert answer.status == 400

        body, key = {"model": "gpt-image-2", "prompt": "a", "size": "64x64"}, {"Authorization": "Bearer k"}
        for status in (503, 200):
            async with http.post(f"{upstream.base_url}/images/generations", json=body, headers=key) as answer:
                assert status == answer.status
        async with http.get(url) as answer:
            shown = await answer.json()

    assert shown["hits"] == {"overloaded": 1}
    assert {"submit", "poll", "result"} == set(shown["offer"])
    assert [(seen.status, seen.fault) for seen in upstream.requests] == [(503, "overloaded"), (200, None)]
