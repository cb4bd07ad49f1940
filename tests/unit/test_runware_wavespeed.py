"""Runware and WaveSpeed in what the others do not have: an id of ours, silence, prices asked before and bills after."""

import base64
import json
import sqlite3
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import requests
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers import runware, wavespeed
from flux_krea.nodes.providers.contract import (
    INPAINTING,
    BadAnswer,
    BalanceTooLow,
    ContentRefused,
    GenerationFailed,
    KeyRefused,
    Lora,
    OverBudget,
    ProviderError,
    RateLimited,
    RequestRefused,
    TooDear,
    UnknownOutcome,
)
from scripted_answers import (
    GOOD,
    ID,
    IMAGE,
    PNG,
    RUNWARE_ITEM,
    RUNWARE_TAKEN,
    TASK,
    TEXT,
    WAVESPEED_BILL,
    WAVESPEED_CREATED,
    WAVESPEED_DONE,
    WAVESPEED_PRICE,
    drive,
    failing,
    planned,
    play,
    reply,
)
from standins import Standin

RUNWARE, WAVESPEED = runware.PROVIDER, wavespeed.PROVIDER
SILENT = reply({"data": []})


def refusal(code, status=400, shape="errors", **more):
    error = {"code": code, "message": "said why", **more}
    return reply({shape: error if shape == "one" else [error]} if shape != "one" else {"error": error}, status)


# Runware


def test_the_journals_id_is_the_tasks_id_from_the_first_call_to_the_last():
    calls, job, delivery = drive(RUNWARE, TEXT, *GOOD["runware"])
    assert {task["taskUUID"] for call in calls for task in call.json} == {TASK} and job == {"task": TASK}
    assert (delivery.seed, delivery.cost_usd, delivery.flags, delivery.request_id) == (7, 0.0098, (False,), TASK)


def test_a_task_that_is_there_already_is_the_one_whose_answer_was_lost():
    for shape in ("errors", "error", "one"):
        _, end = play(RUNWARE.submit(planned(RUNWARE, TEXT)), [refusal("conflictTaskUUID", shape=shape)])
        assert end == {"task": TASK}


@pytest.mark.parametrize("shape", ["errors", "error", "one"])
@pytest.mark.parametrize(
    ("code", "status", "kind", "paid"),
    [
        ("invalidApiKey", 401, KeyRefused, False),
        ("insufficientCredits", 402, BalanceTooLow, False),
        ("quotaExceeded", 400, BalanceTooLow, False),
        ("invalidWidth", 400, RequestRefused, False),
        ("unsupportedSeedImage", 400, RequestRefused, False),
        ("contentPolicyViolation", 400, ContentRefused, False),
        ("promptBlocked", 400, ContentRefused, False),
        ("rateLimitExceeded", 429, RateLimited, False),
        ("internalServerError", 500, UnknownOutcome, None),
        ("timeoutProvider", 504, UnknownOutcome, None),
        ("providerError", 200, GenerationFailed, None),
        ("rateLimitExceeded", 400, RateLimited, False),
        ("insufficientCredits", 499, BalanceTooLow, False),
        ("insufficientCredits", 500, UnknownOutcome, None),
        ("invalidApiKey", 429, RateLimited, False),
        ("promptBlocked", 200, ContentRefused, False),
    ],
)
def test_runwares_refusals_are_read_by_their_code_in_every_shape(shape, code, status, kind, paid):
    error = failing(kind, RUNWARE, TEXT, refusal(code, status, shape))
    assert error.paid is paid and "said why" in str(error)


def test_too_many_calls_are_that_whatever_the_code_says():
    assert failing(RateLimited, RUNWARE, TEXT, refusal("aNewCode", 429)).paid is False


def test_the_key_is_tried_with_a_call_that_the_stand_in_takes():
    with Standin("runware") as standin:
        answer = requests.post(
            standin.base_url + urlsplit(RUNWARE.check.url).path, json=RUNWARE.check.json,
            headers={"Authorization": f"Bearer {standin.key}"}, timeout=5,
        )  # fmt: skip
    assert answer.ok and "errors" not in answer.json(), answer.text


def test_pictures_are_matched_by_the_tasks_id_and_never_by_their_order():
    other = RUNWARE_ITEM | {"taskUUID": "another", "imageURL": "https://im.runware.ai/other.png"}
    _, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, reply({"data": [other, RUNWARE_ITEM]}))
    assert delivery.pictures == ("https://im.runware.ai/a.png",)


@pytest.mark.parametrize(("cost", "told"), [(0, None), (0.01, 0.01), ("free", None)])
def test_a_cost_of_nothing_is_no_price(cost, told):
    _, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, reply({"data": [RUNWARE_ITEM | {"cost": cost}]}))
    assert delivery.cost_usd == told


@pytest.mark.parametrize(("item", "flag"), [({}, False), ({"NSFWContent": True}, True), ({"NSFWContent": "no"}, None)])
def test_a_flagged_picture_is_delivered_and_says_so(item, flag):
    answers = (RUNWARE_TAKEN, reply({"data": [RUNWARE_ITEM | item]}))
    assert drive(RUNWARE, TEXT, *answers)[2].flags == (flag,)
    assert drive(RUNWARE, replace(TEXT, safety_checker=False), *answers)[2].flags == (None,)


OTHERS_ERROR = {"code": "rateLimitExceeded", "message": "slow down", "taskUUID": "another"}


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("error", [OTHERS_ERROR, {"code": "insufficientCredits", "message": "of something else"}])
def test_a_task_that_was_taken_is_taken_whatever_error_stands_beside_it(error, status):
    taken = reply({"data": [{"taskType": "imageInference", "taskUUID": TASK}], "errors": [error]}, status)
    assert play(RUNWARE.submit(planned(RUNWARE, TEXT)), [taken])[1] == {"task": TASK}


@pytest.mark.parametrize("code", ["rateLimitExceeded", "conflictTaskUUID", "invalidApiKey"])
def test_an_error_of_another_task_says_nothing_of_ours(code):
    other = reply({"data": [], "errors": [{"code": code, "message": "no", "taskUUID": "another"}]})
    assert failing(UnknownOutcome, RUNWARE, TEXT, other).paid is None


def test_of_two_pictures_for_one_both_are_counted():
    twice = [RUNWARE_ITEM, RUNWARE_ITEM | {"imageURL": "https://im.runware.ai/b.png", "cost": "0.01"}]
    _, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, reply({"data": twice}))
    assert len(delivery.pictures) == 1 and delivery.cost_usd == pytest.approx(0.0198)


@pytest.mark.parametrize("cost", [-0.5, "-1", "nan", "1e400", True, {"usd": 1}, None])
def test_a_cost_that_is_none_is_not_told(cost):
    _, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, reply({"data": [RUNWARE_ITEM | {"cost": cost}]}))
    assert delivery.cost_usd is None


@pytest.mark.parametrize(
    ("told", "seed"), [(99, 99), (0, 0), (2**64 - 1, 2**64 - 1), (True, 7), (-1, 7), (2**64, 7), ("99", 7), (None, 7)]
)
def test_the_seed_is_the_told_one_where_it_is_a_seed(told, seed):
    _, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, reply({"data": [RUNWARE_ITEM | {"seed": told}]}))
    assert delivery.seed == seed


def test_silence_is_no_end_and_the_tasks_record_is_asked_after_a_while():
    record = {"taskType": "getTaskDetails", "taskUUID": TASK, "response": {"data": [RUNWARE_ITEM]}}
    calls, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, *[SILENT] * 20, reply({"data": [record]}))
    assert [call.json[0]["taskType"] for call in calls[-2:]] == ["getResponse", "getTaskDetails"]
    assert delivery.pictures == ("https://im.runware.ai/a.png",)
    error = failing(UnknownOutcome, RUNWARE, TEXT, SILENT, job={"task": TASK})
    assert error.paid is None and "look at https://my.runware.ai" in str(error)


def followed(*script):
    """The kinds of the questions after a task, the pauses before them, and what came of it."""
    following, script, kinds, pauses = RUNWARE.follow({"task": TASK}, TEXT), list(script), [], []
    try:
        call = next(following)
        while True:
            assert (call.method, call.url) == ("POST", "https://api.runware.ai/v1")
            kinds.append(call.json[0]["taskType"])
            pauses.append(call.delay)
            call = following.send(script.pop(0) if len(script) > 1 else script[0])
    except StopIteration as end:
        return kinds, pauses, end.value
    except ProviderError as error:
        return kinds, pauses, error


WAITING = reply({"data": [{"taskType": "imageInference", "taskUUID": TASK, "status": "processing"}]})
HERE = reply({"data": [RUNWARE_ITEM]})


def record(response):
    return reply({"data": [{"taskType": "getTaskDetails", "taskUUID": TASK, "response": response}]})


def test_silence_is_borne_for_twenty_looks_and_for_a_hundred_slower_ones_after_an_empty_record():
    kinds, pauses, error = followed(SILENT)
    assert kinds == [*["getResponse"] * 20, "getTaskDetails", *["getResponse"] * 100, "getTaskDetails"]
    assert min(pauses[:20]) == 0.5 and min(pauses[21:121]) == max(pauses[21:121]) == 3.0
    assert type(error) is UnknownOutcome
    kinds, _, delivery = followed(*[SILENT] * 20, record({}), SILENT, HERE)
    assert kinds[-3:] == ["getTaskDetails", "getResponse", "getResponse"] and delivery.pictures


def test_a_sign_of_life_starts_the_patience_anew():
    kinds, _, delivery = followed(*[SILENT] * 19, WAITING, *[SILENT] * 19, HERE)
    assert set(kinds) == {"getResponse"} and len(kinds) == 40 and delivery.pictures
    kinds, _, _ = followed(*[SILENT] * 19, WAITING, *[SILENT] * 20, record({"data": [RUNWARE_ITEM]}))
    assert kinds[-1] == "getTaskDetails" and len(kinds) == 41


@pytest.mark.parametrize(
    "useless", [reply({}), reply(b"{"), reply({"data": [RUNWARE_ITEM]}, 500), reply({"errors": []})]
)
def test_an_answer_that_says_nothing_is_neither_silence_nor_a_picture(useless):
    kinds, _, delivery = followed(useless, useless, HERE)
    assert len(kinds) == 3 and delivery.pictures
    kinds, _, delivery = followed(*[SILENT] * 20, useless, useless, record({"data": [RUNWARE_ITEM]}))
    assert kinds[20:] == ["getTaskDetails"] * 3 and delivery.pictures
    assert isinstance(followed(useless)[2], ProviderError) and len(followed(useless)[0]) == 11


@pytest.mark.parametrize("error", [{"code": "timeoutProvider", "message": "said why"}, {"code": "timeoutProvider"}])
def test_how_a_task_ended_may_stand_in_its_record(error):
    _, _, end = followed(*[SILENT] * 20, record({"errors": [error]}))
    assert type(end) is GenerationFailed and end.paid is None
    assert f"(timeoutProvider): {error.get('message', 'no reason given')}" in str(end)


@pytest.mark.parametrize("address", [None, 5, "", "im.runware.ai/a.png", "data:image/png;base64,AA", "file:///a.png"])
def test_an_item_without_the_address_of_a_picture_is_none(address):
    waiting = reply({"data": [RUNWARE_ITEM | {"imageURL": address}]})
    assert len(followed(waiting, HERE)[0]) == 2
    both = reply({"data": [RUNWARE_ITEM | {"imageURL": address}, RUNWARE_ITEM]})
    assert followed(both)[2].pictures == ("https://im.runware.ai/a.png",)


def test_a_picture_is_delivered_whatever_error_stands_beside_it():
    assert followed(reply({"data": [RUNWARE_ITEM], "errors": [{"code": "timeoutProvider"}]}))[2].pictures


def test_runware_gets_the_image_and_the_mask_beside_the_other_inputs():
    def sent(request):
        return play(RUNWARE.submit(planned(RUNWARE, request)), [RUNWARE_TAKEN])[0][0].json[0]

    as_text = "data:image/png;base64," + base64.b64encode(PNG).decode()
    masked = replace(IMAGE, mode=INPAINTING, mask=PNG)
    assert "inputs" not in sent(TEXT) and sent(IMAGE)["inputs"] == {"seedImage": as_text}
    assert sent(masked)["inputs"] == {"seedImage": as_text, "maskImage": as_text}
    assert sent(TEXT)["taskType"] == "imageInference" and sent(TEXT)["deliveryMethod"] == "async"


@pytest.mark.parametrize(("output_format", "quality"), [("png", None), ("jpeg", 60), ("webp", 60)])
def test_runware_gets_a_quality_where_the_format_has_one(output_format, quality):
    sent = RUNWARE.plan(replace(TEXT, output_format=output_format, quality=60)).payload
    assert sent.get("outputQuality") == quality
    assert sent["outputFormat"] == {"png": "PNG", "jpeg": "JPG", "webp": "WEBP"}[output_format]


@pytest.mark.parametrize(
    ("code", "kind"), [("nsfwContentDetected", ContentRefused), ("timeoutProvider", GenerationFailed)]
)
def test_a_task_that_ends_without_a_picture_may_be_billed(code, kind):
    assert failing(kind, RUNWARE, TEXT, RUNWARE_TAKEN, refusal(code, 200, taskUUID=TASK)).paid is None


def test_errors_of_another_task_are_not_ours():
    other = refusal("timeoutProvider", 200, taskUUID="another")
    _, _, delivery = drive(RUNWARE, TEXT, RUNWARE_TAKEN, other, reply({"data": [RUNWARE_ITEM]}))
    assert delivery.pictures


def test_a_lost_task_is_looked_for_by_its_id_in_both_places():
    waiting = {"taskType": "imageInference", "taskUUID": TASK, "status": "processing"}
    for script in ([reply({"data": [waiting]})], [SILENT, reply({"data": [{"taskUUID": TASK, "request": []}]})]):
        calls, found = play(RUNWARE.find_lost(planned(RUNWARE, TEXT), 60.0), list(script))
        assert found == ({"task": TASK},)
        assert [call.json[0]["taskType"] for call in calls] == ["getResponse", "getTaskDetails"][: len(script)]
        assert {call.method for call in calls} == {"POST"}
    assert play(RUNWARE.find_lost(planned(RUNWARE, TEXT), 60.0), [SILENT])[1] == ()


@pytest.mark.parametrize("field", ["webhookURL", "uploadEndpoint", "taskUUID", "outputType", "maskImage"])
def test_a_shared_workflow_says_nothing_of_who_else_gets_the_picture(field):
    with pytest.raises(RequestRefused, match=f"extra may not set {field} at Runware"):
        RUNWARE.plan(replace(TEXT, extra={field: "https://attacker.example"}))


@pytest.mark.parametrize(
    ("asked", "size"),
    [((1024, 1024), (1024, 1024)), ((1000, 700), (1024, 704)), ((4096, 1024), (2048, 512)), ((64, 64), (128, 128))],
)
def test_runware_makes_multiples_of_64(asked, size):
    plan = RUNWARE.plan(replace(TEXT, width=asked[0], height=asked[1]))
    assert plan.size == size and ("size" in {change.parameter for change in plan.changes}) == (asked != size)
    assert RUNWARE.plan(IMAGE).size == (128, 128)  # in the size of its image, which has 64 a side


# Runware, over HTTP


@pytest.fixture
def at_runware(tmp_path, monkeypatch):
    with Standin("runware") as standin:
        for name, value in {**standin.env, "FLUX_KREA_PATIENCE_SECONDS": "1.5"}.items():
            monkeypatch.setenv(name, value)
        jobs = Jobs(tmp_path / "private", tmp_path / "pictures")
        yield standin, jobs, tmp_path
        jobs.close()


def submitted(standin) -> list[str]:
    tasks = [task for request in standin.kept if request.body for task in request.json()]
    return [task["taskUUID"] for task in tasks if task["taskType"] == "imageInference"]


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "malformed", "html"])
def test_a_call_whose_answer_was_lost_is_sent_again_with_the_same_id_and_paid_once(at_runware, kind):
    standin, jobs, _ = at_runware
    standin.set(job_seconds=2.0, silent_while_running=True)  # so that looking finds nothing
    standin.fault("list", "status", None, status=500)
    standin.fault("submit", kind)
    with standin.recording():
        result = jobs.start("runware", TEXT).future.result(30)
        ids = submitted(standin)
    assert result.pictures and standin.state()["accepted"] == 1
    assert len(ids) == 2 and len(set(ids)) == 1


def test_after_too_long_a_time_nothing_is_sent_again(at_runware):
    standin, jobs, folder = at_runware
    standin.fault("submit", "status", None, status=500)
    with pytest.raises(UnknownOutcome):
        jobs.start("runware", TEXT).future.result(30)
    standin.reset()
    with sqlite3.connect(folder / "private" / "journal.sqlite3") as journal:
        journal.execute("UPDATE jobs SET sent = sent - 3600")
    journal.close()
    with standin.recording(), pytest.raises(UnknownOutcome):
        jobs.start("runware", TEXT).future.result(30)
    assert standin.state()["accepted"] == 0
    with sqlite3.connect(folder / "private" / "journal.sqlite3") as journal:
        journal.execute("UPDATE jobs SET sent = sent + 3600")
    journal.close()
    assert jobs.start("runware", TEXT).future.result(30).pictures and standin.state()["accepted"] == 1


# WaveSpeed


def body(data, status=200):
    return reply({"code": status, "message": "success", "data": data}, status)


def test_wavespeed_is_asked_for_its_price_before_and_for_the_bill_after():
    calls, job, delivery = drive(WAVESPEED, TEXT, *GOOD["wavespeed"])
    assert [call.url.rsplit("/", 1)[1] for call in calls] == ["price", "flux-krea-dev-lora", "result", "search"]
    assert calls[0].json["inputs"] == calls[1].json == WAVESPEED.plan(TEXT).payload
    assert (job, delivery.cost_usd, delivery.flags) == ({"id": ID}, 0.024, (False,))


def test_a_price_far_above_what_the_limits_counted_is_refused_before_it_is_paid():
    answers = [body({"price": 0.06})]
    error = failing(TooDear, WAVESPEED, TEXT, *answers)
    assert error.paid is False and "$0.06" in str(error) and "$0.025" in str(error)
    calls, end = play(WAVESPEED.submit(WAVESPEED.plan(TEXT)), [body({"price": 0.03}), WAVESPEED_CREATED])
    assert end == {"id": ID} and calls[-1].paid and calls[-1].usd == 0.03  # which the limits count


@pytest.mark.parametrize(("price", "usd"), [(0.05, 0.05), ("0.05", 0.05), (0, 0.0)])
def test_twice_what_was_counted_is_paid_and_no_more(price, usd):
    calls, _ = play(WAVESPEED.submit(WAVESPEED.plan(TEXT)), [body({"price": price}), WAVESPEED_CREATED])
    assert calls[-1].paid and calls[-1].usd == usd
    assert failing(TooDear, WAVESPEED, TEXT, body({"price": 0.0501})).paid is False


def test_a_dearer_price_that_a_limit_does_not_allow_is_not_paid(tmp_path, monkeypatch):
    with Standin("wavespeed", queue_seconds=0, job_seconds=0) as standin:
        for name, value in standin.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("standins.wavespeed.PRICE", 0.04)
        jobs = Jobs(tmp_path / "private", tmp_path / "pictures")
        with pytest.raises(OverBudget, match=r"about \$0\.04.*max_cost_usd.*\$0\.03.*Nothing was sent or paid"):
            jobs.start("wavespeed", TEXT, max_cost_usd=0.03, budget_key="run").future.result(30)
        assert standin.state()["accepted"] == 0 and jobs.spent_today() == 0
        jobs.start("wavespeed", TEXT, max_cost_usd=0.04, budget_key="run").future.result(30)
        with pytest.raises(OverBudget):
            jobs.start("wavespeed", replace(TEXT, seed=8), max_cost_usd=0.07, budget_key="run").future.result(30)
        assert standin.state()["accepted"] == 1 and jobs.spent_today() == 0.04
        jobs.close()


@pytest.mark.parametrize(
    "told",
    [
        {"price": -1},
        {"price": "much"},
        {"price": {"usd": 9}},
        {"unit_price": [9]},
        {"price": 0.02, "currency": "BTC"},
        {"price": True},
        {"price": 0.02, "discounted_price": "less"},
        {"price": 0.02, "currency": None},
    ],
)
def test_a_price_that_nobody_can_read_is_not_paid(told):
    error = failing(TooDear, WAVESPEED, TEXT, body(told))
    assert error.paid is False and "cannot be read" in str(error)


def test_auto_leaves_a_provider_that_is_too_dear_and_no_limit_by_itself(tmp_path, monkeypatch):
    with Standin("wavespeed") as dear, Standin("fal", queue_seconds=0, job_seconds=0) as standin:
        for name, value in {**dear.env, **standin.env}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("standins.wavespeed.PRICE", 0.2)
        jobs = Jobs(tmp_path / "private", tmp_path / "pictures")
        asked = replace(TEXT, loras=(Lora("owner/style"),))  # which makes WaveSpeed the cheapest
        with pytest.raises(OverBudget):
            jobs.start("auto", asked, max_cost_usd=0.03, budget_key="run").future.result(30)
        assert jobs.start("auto", asked, budget_key="run").future.result(30).provider == "fal"
        assert dear.state()["accepted"] == 0 and standin.state()["accepted"] == 1
        jobs.close()


def test_a_price_beyond_every_number_is_not_paid():
    answer = reply(b'{"data": {"price": 1e400, "discounted_price": 0}}')
    assert failing(TooDear, WAVESPEED, TEXT, answer).paid is False


def test_a_discount_does_not_hide_the_price():
    """Which of the two is billed is not documented: the dearer is counted."""
    calls, _ = play(
        WAVESPEED.submit(WAVESPEED.plan(TEXT)),
        [body({"price": 0.04, "discounted_price": 0.0, "currency": "USD"}), WAVESPEED_CREATED],
    )
    assert calls[-1].usd == 0.04


def test_the_older_address_tells_the_price_where_the_newer_does_not_and_nobody_has_to():
    missing = reply({"code": 404}, 404)
    calls, _ = play(WAVESPEED.submit(WAVESPEED.plan(TEXT)), [missing, body({"unit_price": 0.025}), WAVESPEED_CREATED])
    assert [call.url.rsplit("/", 1)[1] for call in calls] == ["price", "pricing", "flux-krea-dev-lora"]
    assert play(WAVESPEED.submit(WAVESPEED.plan(TEXT)), [missing, missing, WAVESPEED_CREATED])[1] == {"id": ID}
    assert failing(TooDear, WAVESPEED, TEXT, missing, body({"unit_price": 1})).paid is False


@pytest.mark.parametrize(
    "bill",
    [
        reply(b"", 500),
        reply([]),
        body({"items": []}),
        body({"items": [{"price": None}]}),
        body({"items": [{"price": 3.0, "prediction": {"uuid": "another"}}]}),
        body({"items": [{"price": -3.0, "prediction": {"uuid": ID}}]}),
    ],
)
def test_a_picture_does_not_wait_for_its_bill(bill):
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, body(WAVESPEED_DONE), bill)
    _, _, delivery = drive(WAVESPEED, TEXT, *answers)
    assert delivery.cost_usd is None and delivery.pictures


@pytest.mark.parametrize(
    ("items", "cost"),
    [
        ([{"price": 0.02, "prediction": {"uuid": ID}}, {"price": "0.005", "prediction": {"uuid": ID}}], 0.025),
        ([{"price": 0.02}, {"price": None}, None, {"price": 9, "prediction": {"uuid": "another"}}], 0.02),
        ([{"price": 0}], 0.0),
    ],
)
def test_what_is_billed_is_the_sum_of_the_bills_of_this_picture(items, cost):
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, body(WAVESPEED_DONE), body({"items": items}))
    calls, _, delivery = drive(WAVESPEED, TEXT, *answers)
    assert delivery.cost_usd == pytest.approx(cost)
    assert calls[-1].json == {"prediction_uuids": [ID], "page": 1, "page_size": 10}


@pytest.mark.parametrize(
    ("told", "flag"),
    [
        ([True], True),
        ([False, True], False),
        (None, None),
        ([], None),
        (["yes"], None),
        ("yes", None),
        ({"0": 1}, None),
    ],
)
def test_wavespeeds_flags_have_three_values(told, flag):
    done = body(WAVESPEED_DONE | {"has_nsfw_contents": told})
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, done, WAVESPEED_BILL)
    assert drive(WAVESPEED, TEXT, *answers)[2].flags == (flag,)


def test_one_picture_was_ordered_and_its_seed_is_the_sent_one():
    outputs = ["https://cdn.wavespeed.ai/a.png", "https://cdn.wavespeed.ai/b.png"]
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, body(WAVESPEED_DONE | {"outputs": outputs}), WAVESPEED_BILL)
    _, _, delivery = drive(WAVESPEED, replace(TEXT, seed=2**31 + 5), *answers)
    assert (delivery.pictures, delivery.seed, delivery.request_id) == ((outputs[0],), 5, ID)
    assert len(delivery.flags) == 1


@pytest.mark.parametrize(
    "useless", [body(WAVESPEED_DONE, 500), body(WAVESPEED_DONE | {"outputs": []}), body({}), reply([])]
)
def test_a_look_that_shows_no_state_is_taken_again(useless):
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, useless, body(WAVESPEED_DONE), WAVESPEED_BILL)
    calls, _, delivery = drive(WAVESPEED, TEXT, *answers)
    assert delivery.pictures and len(calls) == 5


@pytest.mark.parametrize(("status", "text"), [("created", "In WaveSpeed's queue"), ("processing", "is generating")])
def test_wavespeeds_state_is_shown(status, text):
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, body({"status": status}), body(WAVESPEED_DONE), WAVESPEED_BILL)
    calls, _, _ = drive(WAVESPEED, TEXT, *answers)
    assert text in calls[3].progress.text


@pytest.mark.parametrize(
    ("data", "kind", "paid"),
    [
        ({"status": "failed", "code": 1200, "error": "flagged"}, ContentRefused, False),
        ({"status": "failed", "code": 1400, "error": "no prompt"}, RequestRefused, False),
        ({"status": "failed", "code": 1401, "error": "bad size"}, RequestRefused, False),
        ({"status": "failed", "code": 1402, "error": "no such file"}, RequestRefused, False),
        ({"status": "failed", "code": 5000, "error": "crashed"}, GenerationFailed, False),
        ({"status": "failed", "error": "NSFW content detected"}, ContentRefused, False),
        ({"status": "timeout"}, GenerationFailed, False),
        ({"status": "failed"}, GenerationFailed, False),
        ({"status": "cancelled"}, GenerationFailed, None),
        ({"status": "deleted"}, GenerationFailed, None),
    ],
)
def test_how_a_prediction_ends_without_a_picture(data, kind, paid):
    error = failing(kind, WAVESPEED, TEXT, WAVESPEED_PRICE, WAVESPEED_CREATED, body(data))
    assert error.paid is paid and (paid is None or data.get("error", "no reason given") in str(error))


def test_a_word_that_nobody_knows_is_not_an_end():
    waiting = [body({"status": word}) for word in ("created", "processing", "pondering")]
    answers = (WAVESPEED_PRICE, WAVESPEED_CREATED, *waiting, body(WAVESPEED_DONE), WAVESPEED_BILL)
    calls, _, delivery = drive(WAVESPEED, TEXT, *answers)
    assert delivery.pictures and min(call.delay for call in calls[2:-1]) >= 2.0


@pytest.mark.parametrize(
    ("status", "message", "kind", "sentence"),
    [
        (400, "insufficient balance, please top up", BalanceTooLow, "Top up"),
        (403, "your role lacks permission", KeyRefused, "Check the key"),
        (403, "no credits", BalanceTooLow, "Top up"),
        (499, "no credits", BalanceTooLow, "Top up"),
        (401, "no credits", KeyRefused, "before the first top-up"),
        (429, "no credits", RateLimited, "Nothing was accepted"),
        (500, "no credits", UnknownOutcome, "may have accepted"),
        (302, "no credits", BadAnswer, "no answer to a job"),
        (400, "bad size", RequestRefused, "Change the named value"),
        (401, "invalid key", KeyRefused, "before the first top-up"),
        (429, "too many", RateLimited, "Nothing was accepted"),
    ],
)
def test_wavespeeds_refusals(status, message, kind, sentence):
    answer = reply({"code": status, "message": message}, status)
    said = str(failing(kind, WAVESPEED, TEXT, WAVESPEED_PRICE, answer))
    assert sentence in said and ("first top-up" in said) == (status == 401)


def test_a_lost_job_is_one_whose_own_input_is_the_payload():
    payload = dict(WAVESPEED.plan(TEXT).payload)
    listed = body({"items": [{"id": "a"}, {"id": "b"}, {"id": "../c"}, None, {"id": "d"}]})
    seen = [{**payload, "strength": 0.8}, {**payload, "seed": 8}, {**payload, "image": "https://x.example/i.png"}]
    calls, found = play(
        WAVESPEED.find_lost(WAVESPEED.plan(TEXT), 60.0), [listed, *(body({"input": one}) for one in seen)]
    )
    assert found == ({"id": "a"},) and len(calls) == 4
    assert json.dumps(calls[0].json) and not any(call.paid for call in calls)


def test_what_wavespeed_does_not_have_is_said():
    changes = {
        c.parameter: c.delivered for c in WAVESPEED.plan(replace(TEXT, seed=2**31 + 5, safety_checker=False)).changes
    }
    assert changes == {"steps": "WaveSpeed's own", "seed": 5, "safety_checker": True}
    for field in ("enable_sync_mode", "enable_base64_output", "webhook"):
        with pytest.raises(RequestRefused, match=f"extra may not set {field}"):
            WAVESPEED.plan(replace(TEXT, extra={field: True}))
