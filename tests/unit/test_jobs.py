import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import fake_provider
import pytest
from fake_provider import KEY, PROVIDERS, QUEUE, asked, jobs_in, png
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.jobs.merging import is_final
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    Cancelled,
    ContentRefused,
    Estimate,
    GenerationFailed,
    KeyRefused,
    OverBudget,
    ProviderError,
    RateLimited,
    Unavailable,
    UnknownOutcome,
    Unsupported,
)

pytestmark = pytest.mark.usefixtures("quick")


def run(jobs, provider_id="fake", seed=1, **values):
    return jobs.start(provider_id, asked(seed), **values).result(10)


def failure(handle):
    with pytest.raises(ProviderError) as error:
        handle.result(10)
    return error.value


def until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


# The plain way


@pytest.mark.parametrize("provider_id", ["fake", "blocking"])
def test_a_picture_is_paid_once_and_delivered(jobs, server, provider_id):
    result = run(jobs, provider_id, seed=7)
    assert [picture.read() for picture in result.pictures] == [png()]
    assert (result.provider, result.seed, result.flags, result.cost_usd) == (provider_id, 7, (False,), 0.025)
    assert result.estimate == Estimate(0.025) and result.reused == 0 and result.changes == ()
    assert server.paid == 1 and [record.state for record in jobs.pending()] == ["done"]


def test_no_thread_starts_before_the_first_run(tmp_path):
    before = threading.active_count()
    jobs_in(tmp_path)
    assert threading.active_count() == before and list(tmp_path.iterdir()) == []


def test_progress_is_shown_and_a_page_that_fails_ends_nothing(jobs):
    shown = []

    def show(progress):
        shown.append(progress.text)
        raise RuntimeError("no such node on the page")

    run(jobs, on_progress=show)
    assert "making" in shown and "downloading" in shown


def test_the_same_again_is_taken_from_the_disk(jobs, server, tmp_path):
    first = run(jobs)
    again = run(jobs_in(tmp_path))
    assert again.pictures == first.pictures and server.paid == 1
    assert (again.reused, again.cost_usd, again.estimate.usd) == (1, 0, 0)


def test_a_picture_deleted_from_the_disk_is_fetched_again_without_paying(jobs, server, tmp_path):
    Path(run(jobs).pictures[0].path).unlink()
    assert run(jobs).pictures[0].read() == png() and server.paid == 1


def test_another_seed_another_prompt_and_reuse_off_are_new_jobs(jobs, server):
    run(jobs)
    run(jobs, seed=2)
    jobs.start("fake", asked(prompt="a harbour")).result(10)
    run(jobs, reuse=False)
    assert server.paid == 4


def test_the_same_request_in_flight_twice_is_one_job(jobs, server):
    server.duration = 0.3
    handles = [jobs.start("fake", asked()) for _ in range(4)]
    results = [handle.result(10) for handle in handles]
    assert server.paid == 1 and len({result.pictures for result in results}) == 1


def test_more_images_than_a_call_makes_become_parallel_calls_with_consecutive_seeds(jobs, server):
    result = jobs.start("fake", asked(seed=10, images=5)).result(10)
    payloads = [job["payload"] for job in server.jobs.values()]
    assert sorted((payload["seed"], payload["n"]) for payload in payloads) == [(10, 2), (12, 2), (14, 1)]
    assert len(result.pictures) == len(result.flags) == 5 and result.seed == 10
    assert result.estimate.usd == pytest.approx(0.125) and result.changes[-1].parameter == "images"


def test_a_failed_part_keeps_the_others_and_the_next_run_pays_only_for_it(jobs, server):
    server.faults["submit"] = [422]
    error = failure(jobs.start("fake", asked(images=4)))
    assert "1 of 2 parts failed" in str(error) and "only for what is missing" in str(error)
    assert error.paid is True and server.paid == 1
    assert len(jobs.start("fake", asked(images=4)).result(10).pictures) == 4
    assert server.paid == 2


def test_a_part_that_is_refused_for_ever_keeps_back_none_of_the_others_and_is_not_paid_again(jobs, server, tmp_path):
    server.refused_seeds = [10]
    first = jobs.start("fake", asked(seed=10, images=5)).result(10)
    assert (len(first.pictures), len(first.flags), first.seed, first.withheld, first.reused) == (3, 3, 12, 2, 0)
    assert "NSFW" in first.notes[0] and "has to be paid" in first.notes[0]
    assert first.cost_usd is None and first.estimate.usd == pytest.approx(0.125)
    again = jobs_in(tmp_path).start("fake", asked(seed=10, images=5)).result(10)
    assert (again.pictures, again.withheld, again.reused) == (first.pictures, 2, 3)
    assert "Exactly this was sent" in again.notes[0] and (again.cost_usd, again.estimate.usd) == (0, 0)
    assert server.paid == server.count("submit") == 3
    server.refused_seeds = [20, 22]
    error = failure(jobs.start("fake", asked(seed=20, images=4)))
    assert isinstance(error, ContentRefused) and error.paid is True


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ContentRefused("refused before anything was paid", paid=False), True),
        (GenerationFailed("failed, and perhaps billed", paid=None), True),
        (GenerationFailed("failed, and not billed", paid=False), False),
        (UnknownOutcome("may still be found", paid=None), False),
        (Unavailable("down", paid=True), False),
        (ValueError(), False),
    ],
    ids=str,
)
def test_a_part_is_given_up_only_where_another_run_would_get_no_more(error, expected):
    assert is_final(error) is expected


def test_a_failed_sibling_costs_nothing(jobs, server):
    server.faults["submit"] = [422]
    handles = [jobs.start("fake", asked(seed)) for seed in range(4)]
    wait([handle.future for handle in handles], 10)
    again = [jobs.start("fake", asked(seed)).result(10) for seed in range(4)]
    assert sum(result.reused for result in again) == 3 and server.paid == 4


# Faults: paid at most once, and never lost


@pytest.mark.parametrize(
    "faults",
    [
        {"submit": [429]},
        {"submit": ["reset_after"]},
        {"submit": ["hang_after"]},
        {"submit": ["malformed"]},
        {"upload": ["reset", 503]},
        {"poll": [500, 502, "malformed", "html", "reset", 429, "hang"]},
        {"picture": [500, 404, "reset"]},
    ],
    ids=str,
)
def test_a_passing_fault_ends_in_the_picture_and_one_paid_job(jobs, server, faults):
    server.faults.update(faults)
    assert run(jobs).pictures[0].read() == png()
    assert server.paid == 1


@pytest.mark.parametrize("fault", ["reset_after", "hang_after", "malformed"])
@pytest.mark.parametrize("provider_id", ["forgetful", "blocking"])
def test_a_lost_answer_that_cannot_be_looked_up_is_never_paid_twice(jobs, server, tmp_path, provider_id, fault):
    server.faults["submit"] = [fault]
    if fault == "hang_after":
        threading.Timer(0.2, server.let_go.set).start()
    error = failure(jobs.start(provider_id, asked()))
    assert isinstance(error, UnknownOutcome) and error.paid is None
    assert "nobody knows whether it was paid" in str(error)
    for again in (jobs, jobs_in(tmp_path)):
        refused = failure(again.start(provider_id, asked()))
        assert isinstance(refused, UnknownOutcome) and "now nothing was sent" in str(refused)
        assert "change the seed or switch reuse off" in str(refused)
    assert server.count("submit") == 1
    assert [record.state for record in jobs.pending()] == ["unknown"]
    run(jobs, provider_id, reuse=False)
    assert run(jobs, provider_id).reused == 1  # the unknown one stands in the way no longer
    assert server.count("submit") == 2


def test_a_lost_answer_is_looked_up_by_the_next_run(jobs, server):
    server.faults.update({"submit": ["reset_after"], "list": [401] * 2})
    assert isinstance(failure(jobs.start("fake", asked())), UnknownOutcome)
    server.faults.clear()
    assert run(jobs).reused == 1
    assert server.paid == server.count("submit") == 1


def test_a_job_of_another_row_is_not_taken_for_the_lost_one(jobs, server):
    run(jobs)
    server.faults["submit"] = ["reset"]
    assert isinstance(failure(jobs.start("fake", asked(), reuse=False)), UnknownOutcome)
    assert server.paid == 1


@pytest.mark.parametrize(
    ("fault", "kind"), [(401, KeyRefused), (422, ProviderError), (429, RateLimited)], ids=["401", "422", "429"]
)
def test_a_refusal_costs_nothing_and_may_be_tried_again(jobs, server, fault, kind):
    server.faults["submit"] = [fault] * 100
    error = failure(jobs.start("fake", asked(), budget_key="graph", max_cost_usd=0.025))
    assert isinstance(error, kind) and error.paid is False and "Nothing was paid." in str(error)
    server.faults.clear()
    run(jobs, budget_key="graph", max_cost_usd=0.025)
    assert server.paid == 1


def test_an_unreachable_provider_costs_nothing(jobs, server, monkeypatch):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_BLOCKING", "http://127.0.0.1:9")
    error = failure(jobs.start("blocking", asked()))
    assert isinstance(error, Unavailable) and error.paid is False and jobs.pending() == []


def test_polls_that_fail_for_ever_leave_a_job_to_collect(jobs, server):
    server.faults["poll"] = ["reset"] * 1000
    error = failure(jobs.start("fake", asked()))
    assert error.paid is True and "Run again with the same settings to collect it" in str(error)
    server.faults.clear()
    assert run(jobs).reused == 1 and server.paid == 1


def elsewhere(handler):
    handler.answer(302, b"", headers=[("Location", "http://elsewhere.example/a.png")])


@pytest.mark.parametrize("fault", [404, 500, "html", pytest.param(elsewhere, id="elsewhere")])
def test_a_picture_that_does_not_come_is_kept_for_the_next_run(jobs, server, fault):
    server.faults["picture"] = [fault] * 1000
    error = failure(jobs.start("fake", asked()))
    assert error.paid is True and "paid and kept" in str(error)
    server.faults.clear()
    assert run(jobs).pictures[0].read() == png() and server.paid == 1


def test_a_job_that_was_perhaps_paid_for_nothing_is_ordered_again_only_on_purpose(jobs, server):
    server.duration = None
    handle = jobs.start("fake", asked())
    until(lambda: server.paid == 1)
    server.cancelled.append("job-1")
    assert isinstance(failure(handle), GenerationFailed)
    server.duration = 0.0
    again = failure(jobs.start("fake", asked()))
    assert "left no picture" in str(again) and "reuse off" in str(again) and again.paid is None
    assert server.paid == 1
    run(jobs, reuse=False)
    assert server.paid == 2


def test_an_answer_that_is_paid_and_unreadable_is_not_paid_again_unasked(tmp_path, server):
    def unreadable(plan):
        yield fake_provider.Call("POST", f"{fake_provider.API}/jobs", json=dict(n=1, seed=1), paid=True)
        raise BadAnswer("Blocking answered without a picture.", paid=True)

    providers = {"blocking": replace(QUEUE, submit=unreadable, find_lost=None)}
    for _ in range(2):
        error = failure(Jobs(tmp_path, tmp_path, providers, fake_provider.QUICK).start("blocking", asked()))
        assert isinstance(error, UnknownOutcome) and server.paid == 1


def test_an_exchange_that_breaks_is_an_error_that_says_so(tmp_path, server):
    def broken(plan):
        yield fake_provider.Call("POST", f"{fake_provider.API}/jobs", json=dict(n=1, seed=1), paid=True)
        raise ZeroDivisionError

    jobs = Jobs(tmp_path, tmp_path, {"fake": replace(QUEUE, submit=broken, find_lost=None)}, fake_provider.QUICK)
    error = failure(jobs.start("fake", asked()))
    assert isinstance(error, UnknownOutcome) and "ZeroDivisionError" in str(error)


# kill -9


def killed(server, tmp_path, provider_id, kind):
    """A process of its own runs a job and is killed as soon as the server has seen a call of that kind."""
    script = Path(fake_provider.__file__)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path), server.url, provider_id, "1"])
    try:
        assert server.arrived[kind].wait(20)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("kind", "hold"),
    [
        ("upload", {"upload": ["hang"]}),
        ("submit", {"submit": ["hang_after"]}),
        ("poll", {}),
        ("picture", {"picture": ["hang"]}),
    ],
    ids=["reserved", "sending", "accepted", "delivered"],
)
def test_after_kill_9_the_same_run_delivers_and_one_job_is_paid(server, tmp_path, kind, hold):
    server.duration = None
    if kind == "picture":
        server.duration = 0.0
    server.faults.update(hold)
    killed(server, tmp_path, "fake", kind)
    server.duration = 0.0
    assert run(jobs_in(tmp_path)).pictures[0].read() == png()
    assert server.paid == 1


def test_after_kill_9_a_blocking_call_is_not_paid_again_unasked(server, tmp_path):
    server.duration = None
    killed(server, tmp_path, "blocking", "submit")
    error = failure(jobs_in(tmp_path).start("blocking", asked()))
    assert isinstance(error, UnknownOutcome) and server.paid == 1


# Several processes on one folder


def test_two_processes_make_one_job_of_the_same_request(jobs, server, tmp_path):
    server.duration = 0.4
    handle = jobs.start("fake", asked())
    until(lambda: server.paid == 1)
    other = jobs_in(tmp_path).start("fake", asked())
    assert other.result(10).pictures == handle.result(10).pictures
    assert server.paid == 1 and other.result().reused == 1


def test_a_job_that_fails_in_one_process_is_not_paid_again_by_the_other(jobs, server, tmp_path):
    server.duration = None
    first = jobs.start("fake", asked())
    until(lambda: server.paid == 1)
    other = jobs_in(tmp_path).start("fake", asked())
    assert not other.done()
    server.cancelled.append("job-1")
    failure(first)
    assert "left no picture" in str(failure(other)) and server.paid == 1


# Cancelling


def test_cancelling_frees_the_caller_and_stops_the_remote_job(jobs, server):
    server.duration = None
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(5)
    handle.cancel()
    assert handle.done() and isinstance(handle.future.exception(), Cancelled)
    until(lambda: server.cancelled == ["job-1"])
    until(lambda: jobs.pending() == [])
    server.duration = 0.0
    run(jobs)
    assert server.paid == 2


def test_a_job_is_cancelled_although_its_poll_hangs(jobs, server):
    server.duration = None
    server.faults["poll"] = ["hang"]
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(5)
    handle.cancel()
    until(lambda: server.cancelled == ["job-1"], 0.9)


def test_a_job_cancelled_while_its_submit_is_in_flight_is_cancelled_once_accepted(jobs, server):
    server.duration = None

    def slow(handler):
        job = server.accept({"prompt": "", "seed": 1, "n": 1})
        server.let_go.wait(0.3)
        handler.answer(201, {"id": job["id"]})

    server.faults["submit"] = [slow]
    handle = jobs.start("fake", asked())
    assert server.arrived["submit"].wait(5)
    handle.cancel()
    assert handle.done()
    until(lambda: server.cancelled == ["job-1"])


def test_nothing_is_paid_when_it_was_cancelled_before_it_was_sent(jobs, server):
    server.faults["upload"] = [lambda handler: (server.let_go.wait(0.2), handler.answer(503, {}))]
    handle = jobs.start("fake", asked())
    assert server.arrived["upload"].wait(5)
    handle.cancel()
    until(lambda: not jobs._live)
    assert server.count("submit") == 0 and jobs.pending() == []


def test_a_blocking_call_is_seen_to_its_end_and_the_next_run_takes_it(jobs, server):
    server.duration = 0.3
    handle = jobs.start("blocking", asked())
    assert server.arrived["submit"].wait(5)
    handle.cancel()
    assert handle.done()
    assert run(jobs, "blocking").pictures[0].read() == png()
    assert server.paid == 1


def test_one_of_two_callers_cancelling_leaves_the_job_to_the_other(jobs, server):
    server.duration = 0.3
    first, second = jobs.start("fake", asked()), jobs.start("fake", asked())
    until(lambda: server.paid == 1)
    first.cancel()
    assert second.result(10).pictures and server.cancelled == []


def test_a_job_that_can_no_longer_be_cancelled_is_filed(jobs, server):
    server.duration = None
    server.faults["cancel"] = [400]
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(5)
    handle.cancel()
    assert server.arrived["cancel"].wait(5)
    server.duration = 0.0
    assert run(jobs).pictures and server.paid == 1


# Money


def test_eight_parallel_jobs_and_a_budget_for_two_pay_exactly_two_also_after_a_restart(jobs, server, tmp_path):
    def outcomes(jobs):
        handles = [jobs.start("fake", asked(seed), max_cost_usd=0.05, budget_key="graph") for seed in range(8)]
        wait([handle.future for handle in handles], 10)
        return [type(handle.future.exception()) for handle in handles]

    for again in (jobs, jobs_in(tmp_path)):
        assert sorted(outcomes(again), key=str).count(OverBudget) == 6
        assert server.paid == server.count("submit") == 2


def test_one_request_above_the_limit_is_refused_before_anything_is_sent(jobs, server, monkeypatch):
    error = failure(jobs.start("fake", asked(images=5), max_cost_usd=0.10))
    assert isinstance(error, OverBudget) and error.paid is False and "$0.125" in str(error)
    monkeypatch.setenv("FLUX_KREA_MAX_COST_USD", "0.01")
    assert isinstance(failure(jobs.start("fake", asked(), max_cost_usd=5.0)), OverBudget)
    assert server.seen == []
    with pytest.raises(OverBudget):
        jobs.start("fake", asked(), max_cost_usd=float("nan"))


def test_what_was_paid_already_is_taken_whatever_the_limit(jobs, server):
    run(jobs)
    assert run(jobs, max_cost_usd=0.0).reused == 1 and server.paid == 1


def test_nothing_is_paid_without_a_journal(tmp_path, server):
    (tmp_path / "private").write_text("a file where the folder should be")
    error = failure(Jobs(tmp_path / "private", tmp_path, PROVIDERS, fake_provider.QUICK).start("fake", asked()))
    assert error.paid is False and server.paid == 0


# Submit and collect


def test_a_ticket_collects_later_in_another_process_without_a_key_to_pay(jobs, server, tmp_path):
    server.duration = 0.2
    ticket = jobs.start("fake", asked(images=4)).ticket
    assert len(jobs.collect(ticket).result(10).pictures) == 4
    assert len(jobs_in(tmp_path).collect(ticket).result(10).pictures) == 4
    assert server.paid == 2


def test_a_ticket_collects_after_kill_9(server, tmp_path):
    server.duration = None
    ticket = jobs_in(tmp_path / "elsewhere").start("fake", asked(), max_cost_usd=0.0).ticket
    killed(server, tmp_path, "fake", "poll")
    server.duration = 0.0
    assert jobs_in(tmp_path).collect(ticket).result(10).pictures[0].read() == png()
    assert server.paid == 1


def test_cancelling_the_waiting_leaves_a_submitted_job_alone(jobs, server):
    server.duration = 0.3
    handle = jobs.start("fake", asked())
    until(lambda: server.paid == 1)
    collecting = jobs.collect(handle.ticket)
    collecting.cancel()
    assert collecting.done() and handle.result(10).pictures and server.cancelled == []


def test_a_ticket_nobody_knows_is_said_to_be(jobs):
    assert isinstance(failure(jobs.collect("fake/0123")), Unsupported)


# auto


@pytest.fixture
def market(tmp_path, server, monkeypatch):
    """Three providers; the dearest one has no key."""
    for name in ("cheap", "dear", "keyless"):
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name.upper()}", server.url)

    def priced(name, usd, variable="FAKE_KEY"):
        return replace(QUEUE, label=name, key_variable=variable, find_lost=None, estimate=lambda request: Estimate(usd))

    providers = {"dear": priced("Dear", 0.05), "cheap": priced("Cheap", 0.02), "keyless": priced("K", 0.0, "NO_KEY")}
    return Jobs(tmp_path, tmp_path / "pictures", providers, fake_provider.QUICK)


def test_auto_takes_the_cheapest_with_a_key(market):
    assert market.choose(asked()) == ["cheap", "dear"]
    assert run(market, "auto").provider == "cheap"


def test_auto_moves_on_only_when_nothing_was_accepted(market, server):
    server.faults["submit"] = [401]
    assert run(market, "auto").provider == "dear"
    server.faults["submit"] = ["reset_after"]
    assert isinstance(failure(market.start("auto", asked(2))), UnknownOutcome)
    assert server.paid == 2


def test_auto_goes_back_to_where_it_was_paid(market, server):
    server.faults["submit"] = [401]
    run(market, "auto")
    assert run(market, "auto").reused == 1 and server.paid == 1


def test_auto_takes_refused_content_to_nobody_else(market, server, monkeypatch):
    def refuse(plan):
        yield fake_provider.Call("GET", f"{fake_provider.API}/jobs")
        raise ContentRefused("Cheap refused the prompt.")

    market._providers["cheap"] = replace(market._providers["cheap"], submit=refuse)
    assert isinstance(failure(market.start("auto", asked())), ContentRefused) and server.paid == 0


def test_auto_says_why_nobody_can(market, monkeypatch):
    with pytest.raises(Unsupported, match="Cheap: Fake does not do this"):
        market.start("auto", asked(prompt="impossible"))
    monkeypatch.delenv("FAKE_KEY")
    with pytest.raises(KeyRefused, match="FAKE_KEY"):
        market.start("auto", asked())


# Keys and secrets


def test_a_missing_key_and_an_unknown_provider_are_said_before_anything_is_sent(jobs, server, monkeypatch):
    with pytest.raises(Unsupported, match="'zzz'"):
        jobs.start("zzz", asked())
    monkeypatch.delenv("FAKE_KEY")
    with pytest.raises(KeyRefused, match="fake.example/keys"):
        jobs.start("fake", asked())
    assert server.seen == []


def test_a_key_is_tested_for_nothing(jobs, server, monkeypatch):
    jobs.test_key("fake")
    monkeypatch.setenv("FAKE_KEY", "wrong")
    with pytest.raises(KeyRefused, match="does not take this key"):
        jobs.test_key("fake")
    assert server.paid == 0


def test_no_key_reaches_an_error_the_journal_or_the_log(jobs, server, tmp_path, caplog):
    def echo(handler):
        handler.answer(401, {"detail": f"bad key {handler.headers['Authorization']}"})

    server.faults["submit"] = [echo]
    assert KEY not in str(failure(jobs.start("fake", asked())))
    server.faults["submit"] = ["reset_after"]
    done = {"id": f"job-{KEY}", "status": "done", "seed": 1, "pictures": [f"{server.url}/pictures/{KEY}"]}
    server.faults["poll"] = [lambda handler: handler.answer(200, done)]
    assert run(jobs).request_ids == ("job-[hidden]",)
    jobs.close()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"a lighthouse" in content for content in files)
    assert not any(KEY.encode() in content for content in files) and KEY not in caplog.text


def test_the_private_folder_is_private(jobs, tmp_path):
    run(jobs_in(tmp_path / "private"))
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
