"""What only one provider says or does: its endings, its flags, its dialects."""

from dataclasses import replace

import pytest
from flux_krea.nodes.providers import core_today, fal, lumenfall, one_min, providers, replicate
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    BalanceTooLow,
    ContentRefused,
    GenerationFailed,
    KeyRefused,
    Lora,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)
from scripted_answers import (
    CORE_CREATED,
    FAL_DONE,
    FAL_RESULT,
    FAL_SUBMITTED,
    GOOD,
    ID,
    LUMENFALL_DONE,
    PICTURE,
    QUEUE,
    REPLICATE_CREATED,
    REPLICATE_DONE,
    TEXT,
    drive,
    failing,
    reply,
)

# ---- fal


@pytest.mark.parametrize(
    ("status", "answer", "kind", "paid"),
    [
        ({}, reply({"detail": [{"msg": "bad", "type": "content_policy_violation"}]}, 422), ContentRefused, None),
        ({}, reply({"detail": "Could not load image"}, 422), RequestRefused, None),
        ({"error": "Runner died", "error_type": "runner_server_error"}, reply({}, 500), GenerationFailed, False),
        ({}, reply({"detail": "late", "error_type": "request_timeout"}, 504), Unavailable, True),
        ({}, reply({"detail": "oops"}, 500), Unavailable, True),
        ({}, reply({"images": []}), BadAnswer, True),
        ({}, reply({"images": [{"url": "E"}, 5, None]}), BadAnswer, True),
    ],
)
def test_failure_at_fal_is_completed_too(status, answer, kind, paid):
    script = FAL_SUBMITTED, reply({"status": "COMPLETED"} | status), answer
    assert failing(kind, fal, TEXT, *script).paid is paid


@pytest.mark.parametrize(
    ("loras", "said", "sentence"),
    [
        ((Lora("owner/style"),), "Could not load LoRA", "cannot use a LoRA: Could not load LoRA"),
        ((Lora("owner/style"),), "Could not load image", "refused the values: Could not load image"),
        ((), "Could not load LoRA", "refused the values: Could not load LoRA"),
    ],
)
def test_what_fal_cannot_use_is_said_in_the_answers_own_words(loras, said, sentence):
    ended = reply({"status": "COMPLETED", "error": "Invalid status code: 422"})
    script = FAL_SUBMITTED, ended, reply({"detail": said}, 422)
    error = failing(RequestRefused, fal, replace(TEXT, loras=loras), *script)
    assert sentence in str(error) and "status code" not in str(error) and error.paid is None


@pytest.mark.parametrize(
    "answer",
    [
        reply({"detail": "down", "error_type": "internal_error"}, 500),
        reply({"detail": "down"}, 503, x_fal_error_type="runner_scheduling_failure"),
    ],
)
def test_fals_own_failures_of_a_submit_are_not_billed(answer):
    assert failing(Unavailable, fal, TEXT, answer).paid is False


def test_a_refusal_that_fal_only_types_as_content_is_about_content():
    answer = reply(
        {"detail": [{"msg": "no", "type": "other"}, {"msg": "bad", "type": "content_policy_violation"}]}, 422
    )
    assert failing(ContentRefused, fal, TEXT, answer).paid is False
    assert failing(RequestRefused, fal, TEXT, reply({"detail": [{"msg": "no", "type": "other"}]}, 422)).paid is False


@pytest.mark.parametrize(
    ("told", "seed"), [(0, 0), (2**64 - 1, 2**64 - 1), (2**64, 7), (-1, 7), (True, 7), ("99", 7), (None, 7)]
)
def test_fals_seed_is_the_told_one_where_it_is_a_seed(told, seed):
    script = FAL_SUBMITTED, FAL_DONE, reply(FAL_RESULT | {"seed": told})
    assert drive(fal, TEXT, *script)[2].seed == seed


def test_fals_own_addresses_are_asked_and_kept():
    base = "https://queue.fal.run/moved"
    urls = {"status_url": f"{base}/s?v=2", "response_url": f"{base}/r", "cancel_url": f"{base}/c"}
    calls, job, _ = drive(fal, TEXT, reply({"request_id": ID} | urls), FAL_DONE, reply(FAL_RESULT))
    assert job == {"request_id": ID} | urls
    assert [call.url for call in calls[1:]] == [f"{base}/s?v=2&logs=1", f"{base}/r"]
    assert calls[1].cancel.url == f"{base}/c"


@pytest.mark.parametrize(
    ("checker", "flags", "expected"),
    [
        (True, [False, True], (False, True)),
        (False, [False, False], (None, None)),
        (True, [False], (None, None)),
        (True, ["no", 0], (None, None)),
        (True, None, (None, None)),
    ],
)
def test_fals_flags_are_three_valued(checker, flags, expected):
    images = [{"url": "https://v3.fal.media/1.png"}, {"url": "data:image/png;base64,AAAA"}]
    request = replace(TEXT, images=2, safety_checker=checker)
    result = reply({"images": images, "has_nsfw_concepts": flags}, x_fal_billable_units="2")
    _, _, delivery = drive(fal, request, FAL_SUBMITTED, FAL_DONE, result)
    assert delivery.flags == expected and delivery.cost_usd == 0.05 and delivery.seed == 7


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/status",
        "http://queue.fal.run/status",
        "https://queue.fal.run@evil.example/status",
        "https://queue.fal.run:8443/status",
        "https://queue.fal.run\\.evil.example/",
        "https://queue.fal.run.evil.example/",
        "https://queue.fal.run /",
        "https://[queue.fal.run/",
        5,
    ],
)
def test_foreign_addresses_are_replaced_by_fals_documented_ones(url):
    submitted = reply({"request_id": ID, "status_url": url, "response_url": url, "cancel_url": url})
    calls, job, _ = drive(fal, TEXT, submitted, FAL_DONE, reply(FAL_RESULT))
    assert job == {"request_id": ID}
    assert [call.url for call in calls[1:]] == [f"{QUEUE}/status?logs=1", QUEUE]
    assert calls[1].cancel.url == f"{QUEUE}/cancel"


def test_a_tampered_journal_sends_no_key_elsewhere():
    evil = dict.fromkeys(("status_url", "response_url", "cancel_url"), "https://evil.example/")
    calls, _, _ = drive(fal, TEXT, FAL_DONE, reply(FAL_RESULT), job={"request_id": ID} | evil)
    assert [call.url for call in calls] == [f"{QUEUE}/status?logs=1", QUEUE]


@pytest.mark.parametrize(("units", "usd"), [("3", 0.075), ("nan", None), ("-1", None), ("inf", None), ("many", None)])
def test_only_a_readable_bill_is_believed(units, usd):
    result = reply(FAL_RESULT, x_fal_billable_units=units)
    cost = drive(fal, TEXT, FAL_SUBMITTED, FAL_DONE, result)[2].cost_usd
    assert cost == (None if usd is None else pytest.approx(usd))


# ---- Replicate and core.today

NSFW = "All generated images contained NSFW content. Try running it again with a different prompt."


@pytest.mark.parametrize(
    ("body", "kind", "paid"),
    [
        ({"status": "failed", "error": NSFW}, ContentRefused, True),
        ({"status": "failed", "error": "CUDA out of memory"}, GenerationFailed, None),
        ({"status": "failed", "error": None}, GenerationFailed, None),
        ({"status": "canceled"}, GenerationFailed, True),
        ({"status": "aborted"}, GenerationFailed, False),
        ({"status": "succeeded", "output": None, "data_removed": True}, GenerationFailed, True),
        ({"status": "succeeded", "output": []}, BadAnswer, True),
        ({"status": "odd", "completed_at": "2026-01-01T00:00:00Z", "output": None}, BadAnswer, True),
    ],
)
def test_endings_at_replicate(body, kind, paid):
    assert failing(kind, replicate, TEXT, REPLICATE_CREATED, reply(body)).paid is paid


def test_replicate_says_whether_the_model_runs_and_delivers_the_sent_seed_where_its_log_names_none():
    waiting = [reply({"status": status}) for status in ("starting", "processing")]
    calls, _, delivery = drive(replicate, TEXT, REPLICATE_CREATED, *waiting, reply(REPLICATE_DONE | {"logs": None}))
    said = [call.progress.text for call in calls[2:]]
    assert said == ["Replicate is starting the model", "Replicate is generating"] and delivery.seed == 7


def test_replicate_keeps_waiting_while_output_fills():
    early = reply({"status": "processing", "output": ["https://replicate.delivery/early.png"]})
    calls, _, delivery = drive(replicate, TEXT, REPLICATE_CREATED, early, reply(REPLICATE_DONE))
    assert len(calls) == 3 and delivery.pictures == (PICTURE["replicate"],)


@pytest.mark.parametrize(("checker", "flag"), [(True, False), (False, None)])
def test_pictures_that_replicate_drops_are_withheld(checker, flag):
    done = reply(REPLICATE_DONE | {"output": [f"https://replicate.delivery/{i}.png" for i in range(3)]})
    request = replace(TEXT, images=4, safety_checker=checker)
    _, _, delivery = drive(replicate, request, REPLICATE_CREATED, done)
    assert (len(delivery.pictures), delivery.flags, delivery.withheld) == (3, (flag,) * 3, 1)


@pytest.mark.parametrize(
    "done",
    [
        {"status": "completed", "result": "https://x.example/a.png"},
        {"status": "succeeded", "output": ["https://x.example/a.png"]},
        {"status": "completed", "result": {"images": [{"url": "https://x.example/a.png"}]}},
        {"status": "completed", "result": {"data": {"output": ["https://x.example/a.png"]}}},
        {"status": "completed", "result": None, "public_url": "https://x.example/a.png"},
    ],
)
def test_both_dialects_of_core_today_are_read(done):
    for created in (reply({"job_id": ID}), reply({"id": ID})):
        _, job, delivery = drive(core_today, TEXT, created, reply({"status": "processing"}), reply(done))
        assert job == {"id": ID}
        assert delivery.pictures == ("https://x.example/a.png",) and delivery.flags == (None,)


def test_core_today_says_whether_the_job_runs():
    waiting = [reply({"status": status}) for status in ("pending", "processing")]
    calls, _, _ = drive(core_today, TEXT, CORE_CREATED, *waiting, GOOD["core_today"][1])
    assert [call.progress.text for call in calls[2:]] == ["Waiting at core.today", "core.today is generating"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"status": "failed", "error": {"message": NSFW}}, ContentRefused),
        ({"status": "error", "detail": "boom"}, GenerationFailed),
        ({"status": "failed", "message": "boom", "error": None}, GenerationFailed),
        ({"status": "cancelled"}, GenerationFailed),
        ({"status": "aborted"}, GenerationFailed),
    ],
)
def test_endings_at_core_today_leave_the_bill_open(body, kind):
    error = failing(kind, core_today, TEXT, CORE_CREATED, reply(body))
    assert error.paid is None and ("boom" in str(error)) == ("boom" in body.values())


# ---- how many pictures


def answers_with(name, count):
    """The exchange in which a provider makes so many pictures."""
    urls = [f"https://x.example/{index}.png" for index in range(count)]
    last = {
        "fal": FAL_RESULT | {"images": [{"url": url} for url in urls]},
        "replicate": REPLICATE_DONE | {"output": urls},
        "core_today": {"status": "completed", "result": urls},
        "lumenfall": LUMENFALL_DONE | {"data": [{"url": url} for url in urls]},
    }
    return *GOOD[name][:-1], reply(last[name])


@pytest.mark.parametrize("name", ["fal", "replicate", "core_today", "lumenfall"])
@pytest.mark.parametrize(("made", "delivered", "withheld"), [(1, 1, 2), (3, 3, 0), (4, 3, 0)])
def test_what_is_missing_is_withheld_and_no_more_is_taken_than_asked(name, made, delivered, withheld):
    _, _, delivery = drive(providers()[name], replace(TEXT, images=3), *answers_with(name, made))
    assert (len(delivery.pictures), len(delivery.flags), delivery.withheld) == (delivered, delivered, withheld)


# ---- Lumenfall and 1min.ai


@pytest.mark.parametrize(
    ("status", "code", "kind", "paid"),
    [
        (400, "CONTENT_POLICY_VIOLATION", ContentRefused, False),
        (400, "INVALID_REQUEST", RequestRefused, False),
        (404, "MODEL_NOT_FOUND", RequestRefused, False),
        (402, "INSUFFICIENT_BALANCE", BalanceTooLow, False),
        (401, "AUTHENTICATION_FAILED", KeyRefused, False),
        (502, "ALL_PROVIDERS_EXHAUSTED", Unavailable, None),
        (502, "UPSTREAM_ERROR", UnknownOutcome, None),
        (200, "UPSTREAM_ERROR", BadAnswer, None),
        (200, "CONTENT_POLICY_VIOLATION", ContentRefused, False),
        (200, "INSUFFICIENT_BALANCE", BalanceTooLow, False),
        (200, "AUTHENTICATION_FAILED", KeyRefused, False),
    ],
)
def test_lumenfalls_error_codes(status, code, kind, paid):
    nested = {"error": {"message": "said why", "code": code}}
    for body in (nested, {"error": "said why", "error_code": code}, {"error": "said why", "code": code}):
        error = failing(kind, lumenfall, TEXT, reply(body, status))
        assert error.paid is paid and "said why" in str(error)


def test_lumenfall_delivers_text_pictures_cost_and_what_is_missing():
    body = {
        "id": "req_1",
        "data": [{"b64_json": "AAAA"}, {"url": "https://media.lumenfall.ai/b.png"}],
        "metadata": None,
    }
    _, _, delivery = drive(lumenfall, replace(TEXT, images=3), reply(body))
    assert delivery.pictures == ("data:image/png;base64,AAAA", "https://media.lumenfall.ai/b.png")
    assert (delivery.flags, delivery.withheld, delivery.cost_usd) == ((None, None), 1, None)
    good = drive(lumenfall, TEXT, *GOOD["lumenfall"])[2]
    assert (good.cost_usd, good.request_id, good.seed) == (0.03, "req_1", 7)
    for encoded in ("", 5, None):
        assert failing(BadAnswer, lumenfall, TEXT, reply({"data": [{"b64_json": encoded}]})).paid is True


@pytest.mark.parametrize(
    ("record", "kind", "paid"),
    [
        ({"status": "FAILED", "message": "queue full"}, GenerationFailed, None),
        ({"status": "FAILED", "error": {"message": "NSFW detected"}}, ContentRefused, None),
        ({"status": "SUCCESS", "aiRecordDetail": {"resultObject": ["development/x.undefined"]}}, BadAnswer, True),
        (None, BadAnswer, True),
    ],
)
def test_endings_at_1min(record, kind, paid):
    assert failing(kind, one_min, TEXT, reply({"aiRecord": record})).paid is paid


def test_1min_without_a_temporary_address_uses_a_result_that_is_one():
    result = ["https://old.example/a.webp", "https://old.example/b.webp"]
    record = {"status": "SUCCESS", "aiRecordDetail": {"resultObject": result}}
    _, _, delivery = drive(one_min, TEXT, reply({"aiRecord": record}))
    assert delivery.pictures == ("https://old.example/a.webp",) and delivery.flags == (None,)


@pytest.mark.parametrize(
    "body",
    [
        {"message": "boom.", "aiRecord": {"status": "FAILED"}},
        {"aiRecord": {"status": "FAILED", "message": "boom"}},
        {"aiRecord": {"status": "FAILED", "aiRecordDetail": {"error": "boom"}}},
        {"aiRecord": {"status": "FAILED", "aiRecordDetail": {"responseObject": "boom"}}},
    ],
)
def test_1mins_reason_is_found_wherever_it_stands(body):
    assert "made no picture: boom. Whether" in str(failing(GenerationFailed, one_min, TEXT, reply(body, 201)))


@pytest.mark.parametrize("status", [400, 403, 422])
def test_1min_without_credits_is_a_balance_problem(status):
    assert failing(BalanceTooLow, one_min, TEXT, reply({"message": "Insufficient credits"}, status)).paid is False
