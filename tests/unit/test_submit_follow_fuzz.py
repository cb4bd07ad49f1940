"""Whatever a provider answers, it ends with a delivery or a ProviderError, in a bounded number of calls."""

import json
from dataclasses import replace

import pytest
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.answers import own_url
from flux_krea.nodes.providers.contract import IMAGE_TO_IMAGE, Answer, Delivery, GenerationRequest, ProviderError
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_answers import TASK, planned

MOST_CALLS = 1000
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (64).to_bytes(4, "big") * 2
TEXT = GenerationRequest("a fox", images=1)
IMAGE = replace(TEXT, mode=IMAGE_TO_IMAGE, image=PNG)

KEYS = st.sampled_from(
    "id job_id request_id status_url response_url cancel_url status error error_type detail message loc msg logs "
    "queue_position images url has_nsfw_concepts seed output result public_url completed_at data_removed urls get data "
    "b64_json metadata cost aiRecord aiRecordDetail resultObject temporaryUrl fileContent path uuid retry_after items "
    "json_input results input model code next next_cursor outputs has_nsfw_contents download_url upload method errors "
    "taskUUID taskType imageURL NSFWContent price response".split()
)
TEXTS = st.sampled_from(
    "abc-123 ../x IN_QUEUE IN_PROGRESS COMPLETED starting processing succeeded failed canceled aborted pending "
    "completed cancelled SUCCESS FAILED NSFW https://x.example/a.png https://queue.fal.run/a http://[ data:image/png, "
    "CONTENT_POLICY_VIOLATION black-forest-labs/flux-krea-dev conflictTaskUUID imageInference getTaskDetails success PUT "
    "00000000-0000-4000-8000-000000000001".split()
) | st.text(max_size=8)
NUMBERS = st.integers() | st.floats() | st.just(10**400)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=8)
BODIES = (
    (OBJECTS | JSON).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=20)
    | st.sampled_from(
        [b"[" * 100_000, b'{"detail":' + b"[" * 900 + b"]" * 900 + b"}", b"1" * 5000, b"null", b"\xff\xfe"]
    )
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "date", "x-fal-error-type", "x-fal-billable-units"]),
    st.sampled_from(["nan", "-1", "1e999", "soon", "3", "", "Mon, 21 Sep 2026 14:13:20 GMT"]),
    max_size=2,
)
ANSWERS = st.builds(
    Answer, st.sampled_from([200, 200, 200, 201, 202, 302, 400, 401, 404, 422, 429, 500, 503]), HEADERS, BODIES
)
# Answers that go past the first call, so that the arbitrary ones meet what comes later.
OPENINGS = st.sampled_from(
    [
        [],
        [{"request_id": "a", "id": "a", "job_id": "a", "urls": {"get": "https://api.replicate.com/v1/files/a"}}],
        [{"request_id": "a"}, {"status": "COMPLETED"}],
        [{"fileContent": {"path": "a"}, "urls": {"get": "https://api.replicate.com/v1/files/a"}}, {"id": "a"}],
        [{"data": [{"taskType": "imageInference", "taskUUID": TASK}]}],
        [{"data": {"price": 0.025}}, {"data": {"id": "a"}}],
    ]
).map(lambda bodies: [Answer(200, {}, json.dumps(body).encode()) for body in bodies])


def play(generator, script, hosts):
    """(calls, what was returned, or None for a ProviderError). The last answer is repeated for ever."""
    calls = []
    try:
        call = next(generator)
        while len(calls) < MOST_CALLS:
            calls.append(call)
            assert (own_url(call.url, hosts) or not call.authorize) and (
                call.cancel is None or own_url(call.cancel.url, hosts)
            )
            call = generator.send(script.pop(0) if len(script) > 1 else script[0])
    except ProviderError as error:
        assert error.paid in (True, False, None) and len(str(error)) < 1000
        return calls, None
    except StopIteration as end:
        return calls, end.value
    raise AssertionError(f"more than {MOST_CALLS} calls")


@pytest.mark.parametrize("name", list(providers()))
@settings(max_examples=120, deadline=None, derandomize=True)
@given(opening=OPENINGS, answers=st.lists(ANSWERS, min_size=1, max_size=4), request_=st.sampled_from([TEXT, IMAGE]))
def test_any_answers_end_in_a_delivery_or_a_provider_error(name, opening, answers, request_):
    provider, script = providers()[name], [*opening, *answers]
    calls, end = play(provider.submit(planned(provider, request_)), script, provider.hosts)
    assert sum(call.paid for call in calls) <= 1
    if end is not None and not isinstance(end, Delivery):
        calls, end = play(provider.follow(json.loads(json.dumps(end)), request_), script, provider.hosts)
        assert not any(call.paid for call in calls)
    if end:
        assert isinstance(end, Delivery) and len(end.pictures) == len(end.flags) == 1
        assert all(flag in (True, False, None) for flag in end.flags)


@pytest.mark.parametrize("name", [name for name, provider in providers().items() if provider.follow])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(job=OBJECTS, answers=st.lists(ANSWERS, min_size=1, max_size=4))
def test_any_saved_job_ends_too_and_pays_nothing(name, job, answers):
    provider = providers()[name]
    calls, _ = play(provider.follow(job, TEXT), answers, provider.hosts)
    assert not any(call.paid for call in calls)


@pytest.mark.parametrize("name", [name for name, provider in providers().items() if provider.find_lost])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=4), age=st.sampled_from([0.0, 60.0, 1e6]))
def test_any_list_of_jobs_is_read_to_jobs_or_to_none(name, answers, age):
    provider = providers()[name]
    calls, jobs = play(provider.find_lost(planned(provider, TEXT), age), answers, provider.hosts)
    assert (
        len(calls) <= 101 and not any(call.paid for call in calls) and all(isinstance(job, dict) for job in jobs or ())
    )
