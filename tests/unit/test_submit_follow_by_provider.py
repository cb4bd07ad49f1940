"""What only one provider says or does: its endings, its flags, its dialects."""

from dataclasses import replace

import pytest
from flux_krea.nodes.providers import core_today, fal, lumenfall, one_min, replicate
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    BalanceTooLow,
    ContentRefused,
    GenerationFailed,
    KeyRefused,
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


def test_fals_own_failures_of_a_submit_are_not_billed():
    answer = reply({"detail": "down", "error_type": "internal_error"}, 500)
    assert failing(Unavailable, fal, TEXT, answer).paid is False


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


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"status": "failed", "error": {"message": NSFW}}, ContentRefused),
        ({"status": "error", "detail": "boom"}, GenerationFailed),
        ({"status": "cancelled"}, GenerationFailed),
        ({"status": "aborted"}, GenerationFailed),
    ],
)
def test_endings_at_core_today_leave_the_bill_open(body, kind):
    assert failing(kind, core_today, TEXT, CORE_CREATED, reply(body)).paid is None


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
    ],
)
def test_lumenfalls_error_codes(status, code, kind, paid):
    for body in ({"error": {"message": "said why", "code": code}}, {"error": "said why", "error_code": code}):
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
    assert drive(lumenfall, TEXT, *GOOD["lumenfall"])[2].cost_usd == 0.03


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
    record = {"status": "SUCCESS", "aiRecordDetail": {"resultObject": ["https://old.example/a.webp"]}}
    _, _, delivery = drive(one_min, TEXT, reply({"aiRecord": record}))
    assert delivery.pictures == ("https://old.example/a.webp",) and delivery.flags == (None,)


def test_1min_without_credits_is_a_balance_problem():
    assert failing(BalanceTooLow, one_min, TEXT, reply({"message": "Insufficient credits"}, 400)).paid is False
