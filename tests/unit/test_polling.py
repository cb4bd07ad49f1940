"""Asking after a job: how often it is asked, when a useless answer is the last, and what is said then."""

import pytest
from flux_krea.nodes.providers.answers import Site
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    Call,
    KeyRefused,
    Progress,
    ProviderError,
    RateLimited,
    Unavailable,
    UnknownOutcome,
)
from flux_krea.nodes.providers.polling import NewLines, poll
from scripted_answers import reply

SITE = Site("Somebody", "https://somebody.example/keys", "https://somebody.example/billing")
ASK = Call("GET", "https://api.somebody.example/jobs/1")
RUNNING, DONE = reply({"is": "running"}), reply({"is": "done"})
USELESS = reply(b"", 500)


def read(answer):
    return {"running": Progress("at work"), "done": "the picture"}.get((answer.json() or {}).get("is"))


def asked(script, call=ASK, **how):
    """The calls until the end, and what came of them: what was returned, or the error. The last answer is repeated."""
    polls, calls = poll(call, read, SITE, **how), []
    try:
        calls.append(next(polls))
        while True:
            calls.append(polls.send(script.pop(0) if len(script) > 1 else script[0]))
    except StopIteration as end:
        return calls, end.value
    except ProviderError as error:
        return calls, error


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        *((reply(b"", status), 3) for status in (401, 403, 404, 410)),
        *((reply(b"", status), 11) for status in (200, 302, 400, 405, 429, 500)),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
def test_a_useless_answer_is_asked_for_again_ten_times_and_twice_where_it_says_that_there_is_no_such_job(answer, times):
    calls, end = asked([answer])
    assert len(calls) == times and isinstance(end, ProviderError)


def test_an_answer_of_use_in_between_starts_the_count_anew():
    assert asked([*[USELESS] * 10, RUNNING, *[USELESS] * 10, DONE])[1] == "the picture"
    assert isinstance(asked([*[USELESS] * 10, RUNNING, *[USELESS] * 11, DONE])[1], Unavailable)


def test_after_a_useless_answer_it_is_asked_ever_more_slowly():
    calls, _ = asked([USELESS])
    assert [call.delay for call in calls] == [0, 1, 2, 4, 8, 15, 15, 15, 15, 15, 15]
    calls, _ = asked([*[USELESS] * 3, RUNNING, USELESS, DONE])
    assert [call.delay for call in calls] == [0, 1, 2, 4, 0.5, 1]


@pytest.mark.parametrize(("wish", "delays"), [("0.5", [0, 1, 2]), ("7", [0, 7, 7]), ("60", [0, 60]), ("3600", [0, 60])])
def test_a_wait_that_the_provider_asks_for_is_kept_up_to_a_minute(wish, delays):
    calls, _ = asked([reply({}, 429, retry_after=wish)])
    assert [call.delay for call in calls][: len(delays)] == delays


def test_a_job_that_can_be_stopped_gets_a_moment_before_the_first_look():
    running = [*[RUNNING] * 3, DONE]
    assert [call.delay for call in asked(list(running))[0]] == [0, 0.25, 0.25, 0.25]
    calls, _ = asked(list(running), Call("GET", ASK.url, cancel=Call("DELETE", ASK.url)))
    assert [call.delay for call in calls] == [0.25] * 4
    calls, _ = asked([*[RUNNING] * 12, DONE], Call("GET", ASK.url, cancel=Call("DELETE", ASK.url)))
    assert [call.delay for call in calls] == [*[0.25] * 10, *[0.5] * 3]  # rarer after two seconds and a half
    for call in (ASK, Call("GET", ASK.url, cancel=Call("DELETE", ASK.url))):
        assert [each.delay for each in asked(list(running), call, least=2.0)[0]] == [2, 2, 2, 2]


def test_what_is_shown_is_the_last_progress():
    calls, _ = asked([RUNNING, USELESS, DONE])
    assert [call.progress and call.progress.text for call in calls] == [None, "at work", "at work"]


def test_a_job_that_runs_for_half_an_hour_is_left_for_the_next_run():
    calls, end = asked([RUNNING], least=600.0)
    assert len(calls) == 3 and type(end) is UnknownOutcome and end.paid is True
    assert "Somebody has not finished after 30 minutes" in str(end) and "nothing is paid twice" in str(end)
    assert asked([RUNNING], least=600.0, paid=False)[1].paid is False


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (200, BadAnswer, "something that cannot be read"),
        (299, BadAnswer, "something that cannot be read"),
        (401, KeyRefused, "401: who. Check the key at https://somebody.example/keys"),
        (403, KeyRefused, "403: who. Check the key at https://somebody.example/keys"),
        (404, UnknownOutcome, "404: who. It no longer knows the job: look at https://somebody.example/billing"),
        (410, UnknownOutcome, "410: who. It no longer knows the job: look at https://somebody.example/billing"),
        (429, RateLimited, "429: who, and asks to wait 7 s"),
        (300, Unavailable, "300: who"),
        (400, Unavailable, "400: who"),
        (500, Unavailable, "500: who"),
    ],
)
@pytest.mark.parametrize("paid", [True, False])
def test_the_last_useless_answer_says_what_is_wrong_and_whether_it_was_paid(status, kind, sentence, paid):
    answer = reply({"detail": "who"}, status, **({"retry_after": "7"} if status == 429 else {}))
    _, error = asked([answer], paid=paid)
    assert type(error) is kind and error.paid is paid and sentence in str(error)
    assert error.retry_after == (7.0 if status == 429 else None)
    if kind is not UnknownOutcome:
        assert ("nothing is paid twice" in str(error)) == paid and ("Nothing was paid;" in str(error)) != paid


def test_each_line_of_a_log_is_new_once_and_of_many_the_last_twenty_are():
    new = NewLines()
    assert new(["one", "", {"message": "two"}]) == ("one", "two")
    assert new(["one", "two", "three"]) == ("three",)
    assert new([]) == () and new(["one"]) == ()  # a log that comes short says nothing anew
    assert new(["one", "two", "three", "four"]) == ("four",)
    assert new([str(index) for index in range(30)]) == tuple(str(index) for index in range(10, 30))
