"""One paid call on its way: what it waits for, what is asked again and what never is, what it counts as, when it is
stopped."""

import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import fake_provider
import pytest
from fake_provider import API, QUEUE, QUICK, Call, asked, png
from flux_krea.nodes.jobs import jobs as jobs_module
from flux_krea.nodes.jobs.job_record import ACCEPTED, SENDING, JobRecord
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    Estimate,
    GenerationFailed,
    OverBudget,
    ProviderError,
    Unavailable,
    UnknownOutcome,
)

LONG = 20  # seconds; what takes so long never ends


def at(folder, provider, patience=QUICK, name="fake"):
    return Jobs(folder, folder / "pictures", {name: provider}, patience)


def run(jobs, provider_id="fake", seed=1, **values):
    return jobs.start(provider_id, asked(seed), **values).result(LONG)


def failure(handle):
    with pytest.raises(ProviderError) as error:
        handle.result(LONG)
    return error.value


def until(true):
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def threads_named(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


def order(plan, **values):
    """The paid call alone."""
    body = fake_provider.submitted((yield Call("POST", f"{API}/jobs", json=dict(plan.payload), paid=True, **values)))
    return {"id": body["id"]}


# The process ends


@pytest.mark.parametrize(
    ("provider_id", "held", "state", "is_waited_for"),
    [("fake", "upload", [], 0), ("blocking", "submit", [SENDING], 1), ("fake", "poll", [ACCEPTED], 0)],
)
def test_the_end_of_the_process_waits_for_the_answer_to_a_paid_call_and_for_nothing_else(
    jobs, server, monkeypatch, caplog, provider_id, held, state, is_waited_for
):
    registered = []
    monkeypatch.setattr(jobs_module.atexit, "register", registered.append)
    monkeypatch.setattr(jobs_module, "LOOK_FOR_ANSWERS", 0.01)
    server.duration = None
    server.faults["upload"] = ["hang"] if held == "upload" else []
    handle = jobs.start(provider_id, asked())
    assert server.arrived[held].wait(LONG)
    at_exit = [work for work in registered if work == jobs._wait_at_exit]
    ending = threading.Thread(target=at_exit[0], daemon=True)
    ending.start()
    ending.join(0.1 if is_waited_for else LONG)
    assert ending.is_alive() == bool(is_waited_for) and [record.state for record in jobs.pending()] == state
    server.duration = 0.0
    server.let_go.set()
    ending.join(LONG)
    assert not ending.is_alive() and handle.result(LONG).pictures
    assert caplog.text.count("waiting for what is paid at Blocking") == is_waited_for
    run(jobs, provider_id, seed=2)
    assert registered.count(at_exit[0]) == 1


# What is told


def test_how_long_it_took_to_make_and_to_fetch_is_told(jobs, server):
    server.duration = 0.05
    began = time.monotonic()
    seconds = run(jobs).seconds
    assert seconds["generate"] >= 0.05 and seconds["download"] > 0.0
    assert sum(seconds.values()) <= time.monotonic() - began


@pytest.mark.parametrize("is_paid", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError("a secret"), OSError("a secret")], ids=["division", "OSError"])
def test_an_error_nobody_foresaw_says_rightly_whether_money_was_spent_and_the_log_where_it_was(
    tmp_path, server, caplog, error, is_paid
):
    def breaks(*_):
        yield Call("POST", f"{API}/uploads", json={})
        raise error

    provider = replace(QUEUE, follow=breaks) if is_paid else replace(QUEUE, submit=breaks)
    fault = failure(at(tmp_path, provider).start("fake", asked()))
    assert fault.paid is is_paid
    if is_paid or not isinstance(error, OSError):  # else it can only be the journal's
        name = type(error).__name__
        assert isinstance(fault, BadAnswer) and f"unforeseen ({name})" in str(fault)
        assert f"{name} in {Path(__file__).name}, line " in caplog.text and "a secret" not in caplog.text + str(fault)
    else:
        assert isinstance(fault, Unavailable) and "The journal cannot be used" in str(fault)
    assert run(at(tmp_path, QUEUE)).reused == is_paid and server.paid == 1


# What counts as paid


@pytest.mark.parametrize(
    ("estimate", "told", "limit", "may"),
    [
        (0.025, 0.025, 0.025, True),
        (0.025, 0.05, 0.05, True),
        (0.025, 0.05, 0.04, False),
        (0.0, 0.05, 0.05, True),
        (0.0, 0.05, 0.04, False),
        (0.025, None, 0.025, True),
    ],
)
def test_what_the_provider_says_that_it_costs_is_held_against_the_limit_before_it_is_sent(
    tmp_path, server, estimate, told, limit, may
):
    provider = replace(QUEUE, submit=lambda plan: order(plan, usd=told), estimate=lambda request: Estimate(estimate))
    handle = at(tmp_path, provider).start("fake", asked(), max_cost_usd=limit)
    if may:
        assert handle.result(LONG).pictures
    else:
        assert isinstance(failure(handle), OverBudget)
    assert server.paid == server.count("submit") == may


@pytest.mark.parametrize("provider_id", ["fake", "blocking"])
def test_a_job_that_ended_without_a_picture_counts_as_paid_and_is_not_ordered_again(jobs, server, provider_id):
    server.result = lambda job: {"id": job["id"], "status": "done", "pictures": [], "seed": 1}
    error = failure(jobs.start(provider_id, asked()))
    assert isinstance(error, GenerationFailed) and error.paid is True and "without a picture" in str(error)
    assert "left no picture" in str(failure(jobs.start(provider_id, asked())))
    assert server.paid == 1 and jobs.spent_today() == 0.025


@pytest.mark.parametrize(("paid", "spent"), [(True, 0.025), (None, 0.025), (False, 0.0)])
def test_a_job_stopped_by_a_person_counts_unless_its_provider_bills_nothing(tmp_path, server, paid, spent):
    def follow(job, request):
        try:
            return (yield from fake_provider.follow(job, request))
        except GenerationFailed:
            raise GenerationFailed("It was stopped.", paid=paid) from None

    server.duration = None
    jobs = at(tmp_path, replace(QUEUE, follow=follow))
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    handle.cancel()
    until(lambda: not jobs._live)
    assert jobs.spent_today() == spent and server.cancelled == ["job-1"]


@pytest.mark.parametrize(("kind", "status"), [("upload", 503), ("submit", 429)])
def test_what_is_stopped_before_it_was_accepted_counts_for_nothing_and_may_be_ordered(jobs, server, kind, status):
    server.faults[kind] = [status] * 1000
    handle = jobs.start("fake", asked())
    assert server.arrived[kind].wait(LONG)
    handle.cancel()
    until(lambda: not jobs._live)
    server.faults.clear()
    assert jobs.spent_today() == 0.0 and server.paid == 0
    assert run(jobs).reused == 0 and server.paid == 1


# What is paid and cannot go on


@pytest.mark.parametrize("lost", ["job", "follow"])
def test_a_paid_job_that_can_no_longer_be_asked_for_is_said_and_not_paid_again(tmp_path, server, lost):
    def down(job, request):
        raise Unavailable("Fake is down.", paid=True)
        yield

    jobs = at(tmp_path, replace(QUEUE, follow=down))
    assert failure(jobs.start("fake", asked())).paid is True
    jobs.close()
    if lost == "job":
        with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
            db.execute("UPDATE jobs SET job = 'null'")
        db.close()
    jobs = at(tmp_path, QUEUE if lost == "job" else replace(QUEUE, follow=None))
    for _ in range(2):
        error = failure(jobs.start("fake", asked()))
        assert isinstance(error, BadAnswer) and error.paid is True
        assert "The saved job of Fake cannot be read" in str(error)
    assert server.paid == 1


def test_addresses_that_came_with_the_answer_itself_and_are_gone_for_a_while_are_tried_again(tmp_path, server):
    """There is no job to ask for new ones, also where other orders at this provider have one."""
    jobs = at(tmp_path, replace(QUEUE, submit=fake_provider.submit_and_block))
    server.faults["picture"] = [404] * 1000
    error = failure(jobs.start("fake", asked()))
    assert error.paid is True and "paid and kept" in str(error)
    server.faults.clear()
    assert run(jobs).reused == 1 and server.paid == 1


# What is asked again


def test_a_free_call_is_repeated_before_the_payment_and_every_answer_about_a_paid_job_is_its_providers(
    tmp_path, server
):
    heard = []

    def submit(plan):
        heard.append((yield Call("POST", f"{API}/uploads", json={})).status)
        return (yield from order(plan))

    def follow(job, request):
        while not heard[1:] or heard[-1] != 200:
            answer = yield Call("GET", f"{API}/jobs/{job['id']}", delay=0.02)
            heard.append(answer.status)
        return fake_provider.delivery(answer.json())

    server.faults.update({"upload": [503], "poll": [503]})
    run(at(tmp_path, replace(QUEUE, submit=submit, follow=follow)))
    assert heard == [200, 503, 200] and server.count("upload") == 2


@pytest.mark.parametrize(
    ("status", "patience", "comes"),
    [
        (429, {"fault": 0.0}, True),
        (429, {"rate": 0.0}, False),
        (409, {"rate": 0.0}, True),
        (409, {"fault": 0.0}, False),
    ],
)
def test_there_is_one_patience_with_too_many_requests_and_one_with_other_refusals_that_pass(
    tmp_path, server, status, patience, comes
):
    provider = replace(QUEUE, declined=lambda answer: answer.status == 409)
    server.faults["submit"] = [status]
    handle = at(tmp_path, provider, replace(QUICK, **patience)).start("fake", asked())
    if comes:
        assert handle.result(LONG).pictures
    else:
        assert failure(handle).paid is False
    assert server.paid == comes


def test_a_call_that_was_declined_is_sent_when_it_goes_out_again(jobs, server):
    sent = []

    def declined(handler):
        sent.extend(jobs.pending())
        handler.answer(429, {})

    def accepted(handler):
        sent.extend(jobs.pending())
        handler.answer(201, {"id": server.accept({"prompt": "", "seed": 1, "n": 1})["id"]})

    server.faults["submit"] = [declined, accepted]
    run(jobs)
    first, second = sent
    assert first.sent < second.sent and first.sent_uptime < second.sent_uptime


def repeatable(**values):
    """A provider that knows an order by our id for a minute, and whose list of jobs does not show it."""

    def find_lost(plan, age):
        yield Call("GET", f"{API}/jobs")
        return ()

    submit = values.pop("submit", lambda plan: order(plan, usd=0.025))
    return replace(QUEUE, submit=submit, find_lost=find_lost, repeatable_for=60.0, **values)


@pytest.mark.parametrize(("age", "is_repeated"), [(59.9, True), (60.0, False), (3600.0, False), (None, False)])
def test_a_lost_order_is_sent_again_only_while_its_provider_knows_its_id(
    tmp_path, server, monkeypatch, age, is_repeated
):
    monkeypatch.setattr(JobRecord, "seconds_since_sent", age)
    server.faults["submit"] = ["reset"]
    handle = at(tmp_path, repeatable()).start("fake", asked())
    if is_repeated:
        assert handle.result(LONG).pictures
    else:
        assert isinstance(failure(handle), UnknownOutcome)
    assert (server.count("submit"), server.paid) == ((2, 1) if is_repeated else (1, 0))


def test_a_lost_order_is_sent_again_for_its_ticket_which_may_pay_nothing_more(tmp_path, server):
    jobs = at(tmp_path, repeatable())
    server.faults["submit"] = ["reset"] * 2
    handle = jobs.start("fake", asked())
    assert isinstance(failure(handle), UnknownOutcome)
    assert jobs.collect(handle.ticket).result(LONG).pictures and server.paid == 1


def test_a_lost_order_of_which_only_the_ticket_is_left_is_not_told_apart_and_the_same_request_finds_it(jobs, server):
    image = {"mode": "image_to_image", "image": png(), "strength": 0.5}
    server.faults.update({"submit": ["reset_after"], "list": [401] * 2})
    handle = jobs.start("fake", asked(**image))
    assert "cannot be read" in str(failure(handle))
    error = failure(jobs.collect(handle.ticket))
    assert isinstance(error, UnknownOutcome) and "cannot be told apart in the list of jobs at Fake" in str(error)
    assert jobs.start("fake", asked(**image)).result(LONG).reused == 1 and server.paid == 1


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_an_exchange_that_pays_twice_is_stopped_counts_as_perhaps_paid_and_is_not_begun_again(
    tmp_path, server, seconds
):
    def greedy(plan):
        for _ in range(2):
            yield Call("POST", f"{API}/jobs", json=dict(plan.payload), paid=True)

    jobs = at(tmp_path, replace(QUEUE, submit=greedy, find_lost=None, repeatable_for=seconds))
    error = failure(jobs.start("fake", asked()))
    assert "paid a second time for one job" in str(error) and error.paid is None
    assert isinstance(failure(jobs.start("fake", asked())), UnknownOutcome)
    assert server.paid == 1 and jobs.spent_today() == 0.025


# Stopping


def test_a_job_is_told_to_stop_once_however_long_it_goes_on(jobs, server):
    server.duration = None
    server.faults["cancel"] = [lambda handler: handler.answer(202, {})] * 99  # a yes, and it goes on
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    handle.cancel()
    assert server.arrived["cancel"].wait(LONG)
    polls = server.count("poll")
    until(lambda: server.count("poll") >= polls + 3)
    server.duration = 0.0
    assert run(jobs).pictures and server.count("cancel") == server.paid == 1


def test_a_job_whose_picture_is_on_its_way_is_not_told_to_stop_and_the_picture_is_kept(jobs, server):
    def held(handler):
        server.let_go.wait(LONG)
        handler.answer(200, png(), "image/png")

    server.faults["picture"] = [held]
    handle = jobs.start("fake", asked())
    assert server.arrived["picture"].wait(LONG)
    handle.cancel()
    until(lambda: not threads_named("krea-cancel"))
    server.let_go.set()
    until(lambda: not jobs._live)
    assert server.count("cancel") == 0 and run(jobs).reused == 1 and server.paid == 1
