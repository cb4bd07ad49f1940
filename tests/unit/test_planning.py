"""A request as several paid calls, their prices, and what they left as one result or one error."""

from dataclasses import replace

import pytest
from fake_provider import QUEUE, asked
from flux_krea.nodes.jobs.merging import Outcome, joint_error, merge_results
from flux_krea.nodes.jobs.planning import plan_calls, planned_again, split_into_calls, total
from flux_krea.nodes.providers.contract import (
    IMAGE_TO_IMAGE,
    ContentRefused,
    Delivery,
    Estimate,
    GenerationFailed,
    GenerationResult,
    Lora,
    Picture,
    Plan,
    RateLimited,
    Unavailable,
    UnknownOutcome,
)

UNPRICED = replace(QUEUE, plan=lambda request: replace(QUEUE.plan(request), unpriced=("depth", "speed")))


@pytest.mark.parametrize(
    "images, most, parts",
    [
        (1, 1, [(1, 10)]),
        (3, 1, [(1, 10), (1, 11), (1, 12)]),
        (4, 2, [(2, 10), (2, 12)]),
        (5, 2, [(2, 10), (2, 12), (1, 14)]),
        (2, 4, [(2, 10)]),
    ],
)
def test_every_image_is_asked_for_once_and_has_a_seed_of_its_own(images, most, parts):
    calls = split_into_calls(asked(10, images=images), most)
    assert [(call.images, call.seed) for call in calls] == parts


def test_what_nobody_knows_the_price_of_counts_what_the_owner_said_for_each_picture():
    first, last = plan_calls("fake", UNPRICED, asked(images=3), 0.5)
    assert (first.record.reserved, last.record.reserved) == (1.0, 0.5)
    assert first.estimate == Estimate(None, "extra depth, speed may change the price")
    free = replace(QUEUE, estimate=lambda request: Estimate(0.0))
    assert plan_calls("fake", free, asked(), 0.5)[0].record.reserved == 0.0


@pytest.mark.parametrize("key, kept", [("", ""), ("wish/", "wish/10")])
def test_only_a_drawn_seed_is_kept_behind_what_was_wished(key, kept):
    calls = plan_calls("fake", QUEUE, asked(10, images=4), 0.1, "run", key)
    assert [(call.record.seedless_key, call.record.budget_key) for call in calls] == [(kept, "run")] * 2


@pytest.mark.parametrize(
    "request_, is_planned",
    [
        (asked(3, images=2, loras=(Lora("owner/name", 0.5),), extra={"depth": 1}), True),
        (asked(3, mode=IMAGE_TO_IMAGE), False),
    ],
)
def test_a_record_is_planned_again_only_where_all_that_was_sent_is_in_it(request_, is_planned):
    (call,) = plan_calls("fake", QUEUE, request_, 0.1)
    again = planned_again("fake", QUEUE, call.record)
    assert again.request == request_ and again.estimate == Estimate(0.05 if is_planned else 0.025)
    assert again.plan == (call.plan if is_planned else None)


def test_a_plan_that_is_not_the_one_that_was_sent_is_none():
    (call,) = plan_calls("fake", QUEUE, asked(), 0.1)
    other = replace(QUEUE, plan=lambda request: Plan("fake/krea-2", {}))
    assert planned_again("fake", other, call.record).plan is None
    refused = replace(call.record, request={**call.record.request, "prompt": "impossible", "of a later version": 1})
    assert planned_again("fake", QUEUE, refused).plan is None


@pytest.mark.parametrize(
    "prices, usd", [([], 0.0), ([0.1, 0.2], 0.3), ([0.1, None], None), ([0.000001, 0.0000004], 0.000001)]
)
def test_a_total_has_no_dust_and_is_unknown_where_one_price_is(prices, usd):
    assert total(map(Estimate, prices)) == Estimate(usd)


def test_a_total_has_the_first_note():
    assert total([Estimate(1.0), Estimate(1.0, "about"), Estimate(1.0, "at least")]).note == "about"


# What the calls left

CALLS = plan_calls("fake", QUEUE, asked(10, images=4, mode=IMAGE_TO_IMAGE), 0.1)
PICTURES = tuple(Picture(f"{index}.png", 8, 8) for index in range(4))


def outcome(index, was_paid_before=False, **values):
    cost = values.pop("cost_usd", 0.03)
    seconds = {"generate": (3.0, 2.0)[index], "download": (0.25, 0.5)[index]}
    pictures = PICTURES[2 * index : 2 * index + 2]
    flags = ((False, True), (None, False))[index]
    kept = {"request_id": f"id-{index}", "notes": ("slow",), **values}
    delivery = Delivery(("https://a", "https://b"), flags, cost_usd=cost, **kept)
    return Outcome(CALLS[index].record, delivery, pictures, was_paid_before, seconds)


def test_the_parts_of_a_request_become_one_result_in_their_order():
    result = merge_results([outcome(0, withheld=1), outcome(1, withheld=2)], CALLS)
    (change,) = result.changes
    assert (change.parameter, change.asked, change.delivered) == ("images", 4, "2 calls")
    assert result == GenerationResult(
        provider="fake",
        pictures=PICTURES,
        flags=(False, True, None, False),
        seed=10,
        estimate=Estimate(0.1),
        cost_usd=0.06,
        request_ids=("id-0", "id-1"),
        changes=(change,),
        notes=("slow",),
        withheld=3,
        reused=0,
        seconds={"generate": 3.0, "download": 0.5},
        mode=IMAGE_TO_IMAGE,
    )


def test_a_result_of_one_call_is_what_that_left():
    bare = replace(outcome(0, seed=0, request_id=None, notes=()), seconds={})
    result = merge_results([bare], CALLS[:1])
    assert (result.changes, result.notes, result.request_ids, result.seed) == ((), (), (), 0)
    assert result.seconds == {"generate": 0.0, "download": 0.0}


def test_what_was_paid_before_costs_nothing_now():
    result = merge_results([outcome(0, was_paid_before=True, cost_usd=None), outcome(1)], CALLS)
    assert (result.reused, result.cost_usd, result.estimate) == (2, 0.03, Estimate(0.05))
    result = merge_results([outcome(0, cost_usd=None), outcome(1)], CALLS)
    assert (result.reused, result.cost_usd, result.estimate) == (0, None, Estimate(0.1))


@pytest.mark.parametrize(
    "error, withheld, cost, estimate",
    [
        (ContentRefused("Refused.", paid=True), 2, None, 0.1),
        (ContentRefused("Refused.", paid=None), 2, 0.03, 0.05),
        (ContentRefused("Refused.", paid=False), 2, 0.03, 0.05),
        (GenerationFailed("Failed.", paid=True), 0, None, 0.1),
    ],
)
def test_a_part_that_will_never_come_keeps_nothing_back_and_is_said(error, withheld, cost, estimate):
    result = merge_results([error, outcome(1)], CALLS)
    assert (result.pictures, result.seed) == (PICTURES[2:], 12)
    assert (result.withheld, result.cost_usd, result.estimate.usd) == (withheld, cost, estimate)
    assert result.notes == ("slow", str(error))


@pytest.mark.parametrize(
    "ends, paid",
    [
        ([Unavailable("Down.", paid=False), Unavailable("Down.", paid=False)], False),
        ([Unavailable("Down.", paid=False), Unavailable("Down.", paid=True)], True),
        ([Unavailable("Down.", paid=False), UnknownOutcome("Lost.", paid=None)], None),
        ([Unavailable("Down.", paid=False), outcome(1)], True),
        ([Unavailable("Down.", paid=None), outcome(1)], None),
        ([ContentRefused("Refused.", paid=True), ContentRefused("Refused.", paid=False)], True),
    ],
)
def test_of_several_parts_the_error_says_how_many_failed_and_whether_any_was_paid(ends, paid):
    error = merge_results(ends, CALLS)
    failed = [end for end in ends if not isinstance(end, Outcome)]
    kept = " The other 1 are kept: the next run takes them and pays only for what is missing."
    assert type(error) is type(ends[0]) and error.paid is paid
    assert str(error) == f"{len(failed)} of 2 parts failed. {ends[0]}" + (kept if len(failed) == 1 else "")


def test_the_error_of_one_part_alone_is_left_as_it_is():
    alone = RateLimited("Slow down.", retry_after=7.0)
    assert joint_error([alone], 1) is alone
    assert joint_error([alone, alone], 2).retry_after == 7.0
    for count in (1, 2):
        unforeseen = joint_error([KeyError("what"), alone], count)
        assert type(unforeseen) is Unavailable and str(unforeseen) == "'what'"
