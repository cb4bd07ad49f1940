"""How providers are talked to: scripted answers in, the calls and the outcome compared. Nothing is sent."""

import json
from dataclasses import replace

import pytest
from flux_krea.nodes.providers import core_today, fal, lumenfall, one_min, providers, replicate, wavespeed
from flux_krea.nodes.providers.answers import error_text, own_url, picture_urls
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    BalanceTooLow,
    Call,
    ContentRefused,
    Delivery,
    GenerationFailed,
    KeyRefused,
    RateLimited,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)
from scripted_answers import (
    FAL_DONE,
    FAL_RESULT,
    FAL_SUBMITTED,
    GOOD,
    ID,
    IMAGE,
    ONE_MIN_DONE,
    ONE_MIN_RECORD,
    PICTURE,
    PNG,
    PREDICTION,
    QUEUE,
    REPLICATE_CREATED,
    REPLICATE_DONE,
    TEXT,
    drive,
    failing,
    play,
    reply,
)

ASSET = reply({"asset": {"location": "s3://x"}, "fileContent": {"path": "images/x.png"}})
REPLICATE_FILE = reply({"urls": {"get": "https://api.replicate.com/v1/files/f1"}}, 201)
ALL = pytest.mark.parametrize("name", list(providers()))
QUEUES = pytest.mark.parametrize("name", [name for name, provider in providers().items() if provider.follow])


@ALL
def test_a_run_pays_once_is_accepted_once_and_delivers(name):
    provider = providers()[name]
    calls, job, delivery = drive(provider, TEXT, *GOOD[name])
    assert [call.paid for call in calls].count(True) == 1
    assert calls[1 if name == "wavespeed" else 0].paid  # it is asked for its price first
    assert (job is None) == (provider.follow is None) and len(json.dumps(job)) < 500
    assert delivery.pictures == (PICTURE[name],) and len(delivery.flags) == 1 and delivery.withheld == 0
    assert all(own_url(call.url, provider.hosts) for call in calls)
    assert isinstance(delivery.seed, int)
    assert all(0 <= (call.progress.fraction or 0) <= 1 for call in calls if call.progress)


@pytest.mark.parametrize(
    ("module", "request_", "opening", "said"),
    [
        (core_today, TEXT, (), [("POST", "predictions", True), ("GET", f"predictions/{ID}", False)]),
        (core_today, IMAGE, (), [("POST", "predictions/upload", True), ("GET", f"predictions/{ID}", False)]),
        (one_min, TEXT, (), [("POST", "features", True)]),
        (one_min, IMAGE, (ASSET,), [("POST", "assets", False), ("POST", "features", True)]),
    ],
)
def test_where_no_official_client_is_the_calls_are_the_documents(module, request_, opening, said):
    calls, _, _ = drive(module, request_, *opening, *GOOD[module.__name__.rpartition(".")[2]])
    assert [(call.method, call.url, call.paid) for call in calls] == [
        (method, f"{module.API}/{path}", paid) for method, path, paid in said
    ]
    assert {file.filename for call in calls for file in call.files} == ({"image.png"} if request_.image else set())


@QUEUES
def test_a_saved_job_is_followed_without_a_paid_call(name):
    provider = providers()[name]
    _, job, first = drive(provider, TEXT, *GOOD[name])
    calls, _, second = drive(provider, TEXT, *GOOD[name][1:], job=job)
    assert second == first and not any(call.paid for call in calls)


@QUEUES
def test_a_damaged_saved_job_is_an_error_and_sends_nothing(name):
    for job in ({}, {"id": "../../x", "request_id": "a/b", "pictures": [5]}):
        error = failing(BadAnswer, providers()[name], TEXT, reply({}), job=job)
        assert error.paid is True


def test_waiting_can_be_cancelled_at_the_provider():
    cancels = {}
    for name in ("fal", "replicate", "core_today"):
        calls, _, _ = drive(providers()[name], TEXT, *GOOD[name])
        cancels[name] = (calls[1].cancel.method, calls[1].cancel.url)
    assert cancels == {
        "fal": ("PUT", f"{QUEUE}/cancel"),
        "replicate": ("POST", f"{PREDICTION}/cancel"),
        "core_today": ("DELETE", "https://api.core.today/v1/predictions/abc-123"),
    }


def test_a_job_at_1min_keeps_no_name_and_no_account():
    _, job, delivery = drive(one_min, TEXT, reply(ONE_MIN_DONE, 201))
    assert job is None and delivery == Delivery((ONE_MIN_RECORD["temporaryUrl"],), (None,), 7, request_id="u-1")


# ---- images on their way in


def test_fal_gets_the_image_as_a_data_uri():
    calls, _, _ = drive(fal, IMAGE, *GOOD["fal"])
    assert calls[0].json["image_url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert "image_size" not in calls[0].json


def test_replicate_gets_the_image_as_a_file_first():
    calls, _, _ = drive(replicate, IMAGE, REPLICATE_FILE, *GOOD["replicate"])
    assert (calls[0].url, calls[0].paid, calls[0].files[0].name) == (f"{replicate.API}/files", False, "content")
    assert calls[1].json["input"]["image"] == "https://api.replicate.com/v1/files/f1" and calls[1].paid


def test_replicate_is_never_sent_to_a_foreign_file():
    answer = reply({"urls": {"get": "https://evil.example/f1"}}, 201)
    assert failing(BadAnswer, replicate, IMAGE, answer).paid is False


def test_core_today_gets_the_image_with_the_paid_call():
    calls, _, _ = drive(core_today, IMAGE, *GOOD["core_today"])
    assert (calls[0].url, calls[0].files[0].name) == (f"{core_today.API}/predictions/upload", "file:image")
    assert json.loads(calls[0].form["input"])["prompt"] == "a fox" and calls[0].form["model"] == replicate.MODEL


def test_lumenfall_gets_a_form_of_texts():
    calls, _, _ = drive(lumenfall, replace(IMAGE, extra={"sync_mode": True}), *GOOD["lumenfall"])
    assert calls[0].url.endswith("/openai/v1/images/edits") and calls[0].json is None
    assert calls[0].files[0].name == "image" and calls[0].files[0].content == PNG
    assert calls[0].form["num_inference_steps"] == "28" and calls[0].form["sync_mode"] == "true"


def test_1min_gets_the_path_of_an_asset():
    calls, _, _ = drive(one_min, IMAGE, ASSET, *GOOD["one_min"])
    assert (calls[0].files[0].name, calls[0].files[0].filename) == ("asset", "image.png")
    assert calls[1].json["promptObject"]["image_prompt"] == "images/x.png"


@pytest.mark.parametrize("body", [{"asset": {}}, {"fileContent": {"path": ""}}, {"fileContent": {"path": 5}}])
def test_an_asset_without_a_path_ends_before_anything_is_paid(body):
    assert failing(BadAnswer, one_min, IMAGE, reply(body)).paid is False


@pytest.mark.parametrize("module", [replicate, one_min])
@pytest.mark.parametrize(("status", "kind"), [(400, RequestRefused), (401, KeyRefused), (503, Unavailable)])
def test_a_refused_upload_ends_before_anything_is_paid(module, status, kind):
    assert failing(kind, module, IMAGE, reply({"detail": "no"}, status)).paid is False


@pytest.mark.parametrize(("module", "uploaded"), [(replicate, REPLICATE_FILE), (one_min, ASSET)])
def test_an_upload_that_failed_at_the_provider_is_sent_again(module, uploaded):
    good = GOOD[module.__name__.rpartition(".")[2]]
    calls, _, delivery = drive(module, IMAGE, reply(b"", 500), uploaded, *good)
    assert delivery.pictures and calls[0].url == calls[1].url and [call.paid for call in calls].count(True) == 1


# ---- progress, logs, pauses


def test_fal_tells_queue_place_and_each_log_line_once():
    def running(*lines):
        return reply({"status": "IN_PROGRESS", "logs": [{"message": line} for line in lines]}, 202)

    script = (
        FAL_SUBMITTED,
        reply({"status": "IN_QUEUE", "queue_position": 2}, 202),
        reply({"status": "IN_QUEUE"}, 202),
        running("one"),
        running("one", "two"),
        reply({"status": "IN_PROGRESS", "logs": None}, 202),
        FAL_DONE,
        reply(FAL_RESULT),
    )
    calls, _, _ = drive(fal, TEXT, *script)
    assert [call.progress.text for call in calls[2:4]] == ["In fal's queue, 2 ahead", "In fal's queue"]
    assert [call.progress.logs for call in calls[4:7]] == [("one",), ("two",), ()]
    assert calls[1].url == f"{QUEUE}/status?logs=1" and calls[-1].url == QUEUE


def test_replicate_reads_the_progress_bar():
    bar = "Using seed: 7\n 10%|#         | 3/28\n 54%|#####     | 15/28\n"
    running = reply({"status": "processing", "output": None, "logs": bar})
    calls, _, delivery = drive(replicate, TEXT, REPLICATE_CREATED, running, reply(REPLICATE_DONE))
    assert calls[2].progress.fraction == 0.54 and len(calls[2].progress.logs) == 3
    assert delivery.seed == 5


@pytest.mark.parametrize(
    ("name", "waiting"),
    [("fal", {"status": "IN_QUEUE"}), ("replicate", {"status": "starting"}), ("core_today", {"status": "brand new"})],
)
def test_polls_slow_down_and_end_after_half_an_hour(name, waiting):
    calls = []
    following = providers()[name].follow({"id": ID, "request_id": ID}, TEXT)
    with pytest.raises(UnknownOutcome, match="30 minutes.*run again") as error:
        call = next(following)
        while True:
            calls.append(call)
            call = following.send(reply(waiting))
    delays = [call.delay for call in calls]
    assert error.value.paid is True
    assert delays[0] == 0.25 and delays == sorted(delays) and delays[-1] == 3.0 and 1790 < sum(delays) < 1810


@pytest.mark.parametrize(
    "said", [{"error": "it broke"}, {"error_type": "it broke"}, {"error": "it broke", "error_type": "x"}]
)
def test_fals_failure_is_named_in_either_place(said):
    ended = reply({"status": "COMPLETED", **said})
    error = failing(GenerationFailed, fal, TEXT, FAL_SUBMITTED, ended, reply({}, 500))
    assert "it broke" in str(error) and error.paid is False


@pytest.mark.parametrize("name", ["fal", "replicate", "core_today"])
@pytest.mark.parametrize("fault", [reply(b"<html>", 502), reply(b"{", 200), reply({}, 500), reply({"x": 1}, 429)])
def test_a_passing_fault_on_a_poll_loses_nothing(name, fault):
    first, *rest = GOOD[name]
    _, _, delivery = drive(providers()[name], TEXT, first, fault, fault, *rest)
    assert delivery.pictures == (PICTURE[name],)


@pytest.mark.parametrize("name", ["fal", "replicate", "core_today"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (reply(b"<html>", 502), Unavailable),
        (reply([1, 2]), BadAnswer),
        (reply({"detail": "slow down"}, 429, retry_after="7"), RateLimited),
        (reply({"detail": "who?"}, 401), KeyRefused),
        (reply({"detail": "gone"}, 404), UnknownOutcome),
    ],
)
def test_a_lasting_fault_on_a_poll_ends_and_says_that_the_job_is_paid(name, fault, kind):
    assert failing(kind, providers()[name], TEXT, GOOD[name][0], fault).paid is True


# ---- refusals


@ALL
@pytest.mark.parametrize(
    ("answer", "kind", "paid"),
    [
        (reply({"detail": "Unauthenticated"}, 401), KeyRefused, False),
        (reply({"error": {"message": "no"}}, 402), BalanceTooLow, False),
        (reply({"detail": "forbidden"}, 403), KeyRefused, False),
        (reply({"detail": "User is locked. Reason: Exhausted balance."}, 403), BalanceTooLow, False),
        (reply({"detail": [{"loc": ["body", "steps"], "msg": "too many"}]}, 422), RequestRefused, False),
        (reply({"detail": "NSFW content"}, 422), ContentRefused, False),
        (reply({"detail": "throttled", "retry_after": 5}, 429), RateLimited, False),
        (reply(b"<html>bad gateway</html>", 502), UnknownOutcome, None),
        (reply(b"", 500), UnknownOutcome, None),
        (reply(b"", 302), BadAnswer, None),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
def test_refusals_of_the_paid_call(name, answer, kind, paid):
    provider = providers()[name]
    error = failing(kind, provider, TEXT, answer)
    assert error.paid is paid and provider.label in str(error)
    assert ("https://" in str(error)) == (kind not in (RequestRefused, ContentRefused, RateLimited))


def test_a_rate_limit_says_how_long_to_wait():
    assert failing(RateLimited, replicate, TEXT, reply({"retry_after": 5}, 429)).retry_after == 5
    assert failing(RateLimited, fal, TEXT, reply({}, 429, retry_after="2.5")).retry_after == 2.5


@pytest.mark.parametrize("name", ["fal", "replicate", "core_today"])
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"id": 5}', b'{"request_id": "../x", "id": "a b", "job_id": ""}']
)
def test_an_accepted_job_without_an_id_is_an_unknown_outcome(name, body):
    assert failing(UnknownOutcome, providers()[name], TEXT, reply(body)).paid is None


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [{"url": "x.png"}]}, {"aiRecord": {"status": "SUCCESS"}}])
def test_a_paid_answer_without_a_picture_says_that_it_may_be_paid(body):
    for module in (lumenfall, one_min):
        assert failing(BadAnswer, module, TEXT, reply(body)).paid is True


# ---- jobs whose answer was lost


def fal_item(**changes):
    return {"request_id": "found", "json_input": dict(fal.plan(TEXT).payload) | {"sync_mode": False} | changes}


@pytest.mark.parametrize(
    ("items", "job"),
    [
        ([fal_item(seed=8), fal_item()], ({"request_id": "found"},)),
        ([fal_item(), fal_item()], ({"request_id": "found"}, {"request_id": "found"})),
        ([fal_item(prompt="a wolf")], ()),
        ([fal_item(num_images=2)], ()),
        ([], ()),
        ([None, 5, {"json_input": {}, "request_id": "x"}], ()),
    ],
)
def test_a_lost_job_at_fal_is_found_by_its_whole_input(items, job):
    calls, found = play(fal.find_lost(fal.plan(TEXT), 60.0), [reply({"items": items})])
    assert found == job and not any(call.paid for call in calls) and len(calls) == 1
    assert "endpoint_id=fal-ai%2Fflux%2Fkrea&" in calls[0].url and "start" not in calls[0].url
    assert all(isinstance(call, Call) and call.method == "GET" for call in calls)


def test_fals_history_is_read_page_by_page_and_an_older_one_by_fals_own_clock():
    date = {"date": "Mon, 21 Sep 2026 14:13:20 GMT"}
    pages = [reply({"items": [fal_item(seed=8)], "next_cursor": "a/b"}, **date), reply({"items": [fal_item()]}, **date)]
    calls, found = play(fal.find_lost(fal.plan(TEXT), 60.0), list(pages))
    assert found == ({"request_id": "found"},) and calls[1].url.endswith("&cursor=a%2Fb")
    calls, found = play(fal.find_lost(fal.plan(TEXT), 48 * 3600.0), [pages[0], *pages])
    assert found and "&start=2026-09-19T13:13:20Z" in calls[1].url and "&start=" in calls[2].url
    assert "&start=" not in play(fal.find_lost(fal.plan(TEXT), fal.ONE_DAY), list(pages))[0][1].url
    for unread in (reply({"items": [], "next_cursor": "more"}), reply({"items": {"request_id": "x"}})):
        with pytest.raises(Unavailable, match="cannot be read whole"):
            play(fal.find_lost(fal.plan(TEXT), 60.0), [unread])


@pytest.mark.parametrize("cursor", ["", None, 5])
def test_fals_history_ends_where_it_names_no_next_page(cursor):
    calls, found = play(fal.find_lost(fal.plan(TEXT), 60.0), [reply({"items": [], "next_cursor": cursor})])
    assert (len(calls), found) == (1, ())


def test_what_was_found_is_taken_although_the_rest_of_the_list_cannot_be_read():
    first = reply({"items": [fal_item()], "next_cursor": "more"})
    assert play(fal.find_lost(fal.plan(TEXT), 60.0), [first, reply({}, 500)])[1] == ({"request_id": "found"},)
    listed = {"id": "p1", "model": replicate.MODEL, "input": dict(replicate.plan(TEXT).payload["input"])}
    first = reply({"results": [listed], "next": "https://api.replicate.com/v1/predictions?cursor=2"})
    assert play(replicate.find_lost(replicate.plan(TEXT), 60.0), [first, reply({}, 500)])[1] == ({"id": "p1"},)


def test_a_job_found_at_fal_can_be_followed():
    calls, _, delivery = drive(fal, TEXT, FAL_DONE, reply(FAL_RESULT), job={"request_id": ID})
    assert delivery.pictures == (PICTURE["fal"],) and calls[0].url == f"{QUEUE}/status?logs=1"


@pytest.mark.parametrize(
    ("change", "job"),
    [
        ({}, ({"id": "p1"},)),
        ({"model": "other/model"}, ()),
        ({"input": {"prompt": "a fox"}}, ()),
        ({"input": dict(replicate.plan(TEXT).payload["input"], image="https://x.example/a.png")}, ()),
        ({"id": "a/b"}, ()),
    ],
)
def test_a_lost_job_at_replicate_is_found_by_its_whole_input(change, job):
    item = {"id": "p1", "model": replicate.MODEL, "input": dict(replicate.plan(TEXT).payload["input"])} | change
    following = "https://api.replicate.com/v1/predictions?cursor=2"
    pages = [reply({"results": [None], "next": following}), reply({"results": [item], "next": "https://x.example/"})]
    calls, found = play(replicate.find_lost(replicate.plan(TEXT), 60.0), pages)
    assert found == job and [call.url for call in calls] == ["https://api.replicate.com/v1/predictions", following]


def test_nothing_is_claimed_where_a_match_cannot_be_certain():
    assert play(replicate.find_lost(replicate.plan(IMAGE), 0.0), [reply({})]) == ([], ())
    assert play(wavespeed.find_lost(wavespeed.plan(IMAGE), 0.0), [reply({})]) == ([], ())
    assert [name for name, p in providers().items() if p.find_lost] == ["fal", "replicate", "runware", "wavespeed"]


# ---- reading


def test_errors_are_cut_to_one_line_of_the_providers_text():
    assert error_text(
        reply({"detail": [{"loc": ["body", "seed"], "msg": "not\n an\x00 int", "input": "A" * 9}]}, 422)
    ) == ("seed: not an int")
    assert error_text(reply({"message": ["seed is no number"], "error": "Bad Request"}, 400)) == "seed is no number"
    assert len(error_text(reply({"detail": "A" * 10**6}, 422))) == 300
    assert error_text(reply(b"<html>", 502)) == "an HTML page" and error_text(reply(b"", 500)) == "nothing"


def test_pictures_are_found_in_any_shape_and_nothing_else_is():
    assert picture_urls(["https://a/1", {"url": "data:image/png;base64,AA"}, 5, None, "E", "file:///etc/passwd"]) == (
        "https://a/1",
        "data:image/png;base64,AA",
        "file:///etc/passwd",  # which the client refuses
    )
    assert picture_urls(["a note: done", "C: drive", "E", "//a/1", ""]) == ()
    deep = ["https://a/1"]
    for _ in range(9):
        deep = [deep]
    assert picture_urls(deep) == ()
