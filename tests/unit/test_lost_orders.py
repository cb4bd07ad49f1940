"""A paid call whose answer was lost, at the pack's own providers: what is taken for it, what is said of it, how long it
may be sent again."""

import sqlite3
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from flux_krea.nodes.jobs.job_record import JobRecord
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers import fal, replicate, runware, wavespeed
from flux_krea.nodes.providers.contract import GenerationRequest, Lora, ProviderError, UnknownOutcome
from scripted_answers import TEXT, planned, play, reply
from standins import Standin
from standins.plain_client import png

SMALL = GenerationRequest("a fox", width=512, height=512, steps=12, seed=7)


@contextmanager
def at(name, tmp_path, monkeypatch):
    monkeypatch.setattr("flux_krea.nodes.jobs.paid_call.LOOK_FOR_LOST", (0.05, 0.1, 0.2, 0.2, 0.2))
    with Standin(name, queue_seconds=0, job_seconds=0) as standin:
        for variable, value in {**standin.env, "FLUX_KREA_PATIENCE_SECONDS": "1.5"}.items():
            monkeypatch.setenv(variable, value)
        jobs = Jobs(tmp_path / "private", tmp_path / "pictures")
        yield standin, jobs
        jobs.close()


# Which job is taken for it


@pytest.mark.parametrize("name", ["fal", "replicate", "wavespeed"])
@pytest.mark.parametrize("loras", [(), (Lora("owner/style"),)], ids=["", "with a LoRA"])
def test_a_second_order_of_the_same_is_found_and_not_the_first_which_has_its_picture(
    name, loras, tmp_path, monkeypatch
):
    if loras and name == "replicate":
        loras = ()
    with at(name, tmp_path, monkeypatch) as (standin, jobs):
        request = replace(SMALL, loras=loras)
        first = jobs.start(name, request).result(30)
        standin.set(job_seconds=0.25)  # a list that shows only what has ended shows the first alone meanwhile
        standin.fault("submit", "reset_after")
        second = jobs.start(name, request, reuse=False).result(30)
        made = {job["id"] for job in standin.state()["jobs"]}
        assert len(made) == 2 and {*first.request_ids, *second.request_ids} == made


@pytest.mark.parametrize("state", ["failed", "timeout", "cancelled", "deleted"])
def test_of_two_jobs_alike_the_one_that_failed_elsewhere_is_not_taken_for_ours(state):
    payload = dict(wavespeed.plan(TEXT).payload)
    listed = {"items": [{"id": "failed-elsewhere"}, {"id": "ours"}]}
    answers = [
        reply({"data": listed}),
        reply({"data": {"input": payload, "status": state}}),
        reply({"data": {"input": payload, "status": "completed"}}),
    ]
    found = play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), answers)[1]
    assert found == ({"id": "ours"}, {"id": "failed-elsewhere"})


# What is said of it


@pytest.mark.parametrize("provider", [fal, replicate, runware, wavespeed], ids=lambda each: each.SITE.label)
@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_list_of_jobs_that_cannot_be_read_is_not_a_list_without_the_job(provider, status):
    with pytest.raises(ProviderError):
        play(provider.find_lost(planned(provider.PROVIDER, TEXT), 60.0), [reply({"detail": "no"}, status)])


def test_a_list_of_which_not_every_job_could_be_looked_at_is_not_a_list_without_the_job():
    listed = reply({"data": {"items": [{"id": "a"}, {"id": "b"}]}})
    other = reply({"data": {"input": {"prompt": "another"}}})
    with pytest.raises(ProviderError):
        play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), [listed, other, reply(b"", 500)])
    many = reply({"data": {"items": [{"id": f"job-{index}"} for index in range(wavespeed.MOST_LISTED)]}})
    with pytest.raises(ProviderError):
        play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), [many, other])
    assert play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), [listed, other])[1] == ()
    ours = reply({"data": {"input": dict(wavespeed.plan(TEXT).payload)}}, 500)  # an answer that is none
    with pytest.raises(ProviderError):
        play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), [listed, other, ours])


@pytest.mark.parametrize(
    "unread", [reply(b"", 500), reply({"data": {"input": {}}}), reply({"data": {"input": {"seed": 1}}})]
)
def test_a_job_that_was_found_is_ours_whatever_the_rest_of_the_list_is(unread):
    listed = reply({"data": {"items": [{"id": "a"}, {"id": "ours"}]}})
    ours = reply({"data": {"input": dict(wavespeed.plan(TEXT).payload)}})
    assert play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), [listed, unread, ours])[1] == ({"id": "ours"},)


@pytest.mark.parametrize(("length", "looks"), [(99, 99), (100, 100), (150, 100)])
def test_no_more_jobs_are_looked_at_than_were_asked_for_and_a_full_page_may_not_be_all(length, looks):
    listed = reply({"data": {"items": [{"id": f"job-{index}"} for index in range(length)]}})
    other = reply({"data": {"input": {"prompt": "another"}}})
    search = wavespeed.find_lost(wavespeed.plan(TEXT), 60.0)
    asked = [next(search)]
    with pytest.raises((ProviderError, StopIteration)) as end:
        asked.append(search.send(listed))
        while True:
            asked.append(search.send(other))
    assert len(asked) == 1 + looks and (end.type is StopIteration) == (length < 100)
    assert asked[0].json == {"page": 1, "page_size": 100, "model": "wavespeed-ai/flux-krea-dev-lora"}


def test_jobs_that_are_older_than_the_lost_call_by_wavespeeds_own_clock_are_not_looked_at():
    old = [{"id": f"job-{index}", "created_at": "2026-09-21T10:00:00Z"} for index in range(wavespeed.MOST_LISTED - 2)]
    listed = {"items": [{"id": "new", "created_at": "2026-09-21T14:12:00.000Z"}, *old]}
    answers = [reply({"data": listed}, date="Mon, 21 Sep 2026 14:13:20 GMT"), reply({"data": {"input": {"seed": 1}}})]
    calls, found = play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), list(answers))
    assert found == () and len(calls) == 2
    assert len(play(wavespeed.find_lost(wavespeed.plan(TEXT), 5 * 3600.0), list(answers))[0]) == 2 + len(old)
    assert len(play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), [reply({"data": listed}), answers[1]])[0]) == 100
    earlier = {"items": [{"id": "by-another-clock", "created_at": "2026-09-21T14:08:00Z"}]}
    answers[0] = reply({"data": earlier}, date="Mon, 21 Sep 2026 14:13:20 GMT")
    assert len(play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), list(answers))[0]) == 2
    odd = {"items": [{"id": "a", "created_at": value} for value in (None, 5, "yesterday", "9999999-01-01", "")]}
    answers[0] = reply({"data": odd}, date="Mon, 21 Sep 2026 14:13:20 GMT")
    assert len(play(wavespeed.find_lost(wavespeed.plan(TEXT), 60.0), answers)[0]) == 6


def test_an_unreadable_list_is_said_to_be_on_the_node(tmp_path, monkeypatch):
    with at("fal", tmp_path, monkeypatch) as (standin, jobs):
        standin.fault("submit", "reset_after")
        standin.fault("list", "status", None, status=401)
        with pytest.raises(UnknownOutcome, match="The list of jobs at fal cannot be read"):
            jobs.start("fal", SMALL).result(30)
        standin.reset()


def test_a_clock_set_back_hides_no_job_of_the_time_in_question(monkeypatch):
    now, up = time.time(), time.monotonic()
    record = JobRecord("wavespeed", "e", "h", {}, sent=now + 7200, sent_uptime=up - 7200, created=now)
    assert record.most_seconds_since_sent >= 7200
    assert replace(record, sent=now - 9000).most_seconds_since_sent >= 9000
    assert replace(record, sent_uptime=up + 50).most_seconds_since_sent == 0.0  # before the machine was started anew
    assert replace(record, sent=None, sent_uptime=None, created=now - 60).most_seconds_since_sent >= 60


# For how long it may be sent again


@pytest.fixture
def lost_at_runware(tmp_path, monkeypatch):
    """An order that Runware never got, of which nobody knows that; and the jobs of the process after that one."""
    with at("runware", tmp_path, monkeypatch) as (standin, jobs):
        standin.fault("submit", "status", None, status=500)
        with pytest.raises(UnknownOutcome):
            jobs.start("runware", SMALL).result(30)
        standin.reset()
        standin.set(queue_seconds=0, job_seconds=0)
        jobs.close()
        again = Jobs(tmp_path / "private", tmp_path / "pictures")
        yield standin, again
        again.close()


def test_shortly_after_a_restart_it_is_sent_again(lost_at_runware):
    standin, jobs = lost_at_runware
    assert jobs.start("runware", SMALL).result(30).pictures and standin.state()["accepted"] == 1


@pytest.mark.parametrize("hours", [-1.0, -1 / 60, 1.0], ids=["set back", "set back a little", "an hour later"])
def test_a_clock_that_was_set_does_not_make_it_look_recent(lost_at_runware, monkeypatch, hours):
    """`hours` went by on the machine, and its clock says that it was no time at all: or the other way round."""
    standin, jobs = lost_at_runware
    uptime = time.monotonic
    monkeypatch.setattr("flux_krea.nodes.jobs.job_record.uptime", lambda: uptime() + hours * 3600)
    with pytest.raises(UnknownOutcome):
        jobs.start("runware", SMALL).result(30)
    assert standin.state()["accepted"] == 0


def test_a_row_that_does_not_say_when_it_was_sent_by_a_clock_that_nobody_sets_is_not_sent_again(
    lost_at_runware, tmp_path
):
    standin, jobs = lost_at_runware
    for path in (tmp_path / "pictures").glob("*.json"):
        path.unlink()
    with sqlite3.connect(tmp_path / "private" / "journal.sqlite3") as journal:
        journal.execute("UPDATE jobs SET sent_uptime = NULL")
    journal.close()
    with pytest.raises(UnknownOutcome):
        jobs.start("runware", SMALL).result(30)
    assert standin.state()["accepted"] == 0


def test_a_lost_order_with_an_image_is_found_by_its_id_when_only_the_ticket_is_left(tmp_path, monkeypatch):
    with at("runware", tmp_path, monkeypatch) as (standin, jobs):
        standin.fault("list", "status", None, status=500)
        standin.fault("poll", "status", None, status=500)
        standin.fault("submit", "reset_after")
        standin.fault("submit", "status", status=500)  # to asking again
        handle = jobs.start("runware", replace(SMALL, mode="image_to_image", image=png((128, 128)), strength=0.5))
        with pytest.raises(ProviderError):
            handle.result(30)
        standin.faults.clear()
        jobs.close()
        later = Jobs(tmp_path / "private", tmp_path / "pictures")
        assert later.collect(handle.ticket).result(30).pictures
        later.close()
