"""Under a paid call: disk full, journal locked, lost or behind, processes that end or fork. Nothing is lost or paid twice."""

import errno
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fake_provider
import pytest
from fake_provider import BLOCKING, PROVIDERS, asked, jobs_in, png
from flux_krea.nodes.jobs import paid_call as paid_call_module
from flux_krea.nodes.jobs import picture_files
from flux_krea.nodes.jobs.job_record import ACCEPTED, DELIVERED, SENDING, UNKNOWN
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.jobs.journal import Journal
from flux_krea.nodes.jobs.journal_file import JournalFile
from flux_krea.nodes.jobs.records import Records
from flux_krea.nodes.providers.contract import (
    GenerationFailed,
    OverBudget,
    ProviderError,
    Unavailable,
    UnknownOutcome,
)

pytestmark = pytest.mark.usefixtures("quick")
LONG = 60  # seconds; what takes so long never ends


def run(jobs, provider_id="fake", seed=1, **values):
    return jobs.start(provider_id, asked(seed), **values).result(LONG)


def failure(handle):
    with pytest.raises(ProviderError) as error:
        handle.result(LONG)
    return error.value


def until(true, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def states(jobs):
    return [record.state for record in jobs.pending()]


class FullDisk:
    """While `is_full`, every write fails as it does on a full disk: of records, of pictures and of the journal."""

    def __init__(self, monkeypatch):
        self.is_full = False
        self.from_state = None  # full from the moment on that a record in this state is written
        write, store, transaction = Records.write, picture_files.store, JournalFile._attempt

        def no_room():
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")

        def write_record(records, record):
            self.is_full = self.is_full or record.state == self.from_state
            no_room()
            write(records, record)

        def store_picture(*arguments, **values):
            no_room()
            return store(*arguments, **values)

        def commit(journal, work):
            if self.is_full:
                raise sqlite3.OperationalError("database or disk is full")
            return transaction(journal, work)

        monkeypatch.setattr(Records, "write", write_record)
        monkeypatch.setattr(picture_files, "store", store_picture)
        monkeypatch.setattr(JournalFile, "_attempt", commit)

    def make_room(self):
        self.is_full, self.from_state = False, None


@pytest.fixture
def disk(monkeypatch):
    monkeypatch.setattr(paid_call_module, "TRY_DISK_AGAIN", 0.02)
    monkeypatch.setattr("flux_krea.nodes.jobs.journal.TRY_AGAIN", 0.02)
    monkeypatch.setattr(paid_call_module, "TELL_OF_DISK", 0.1)
    disk = FullDisk(monkeypatch)
    yield disk
    disk.make_room()


@contextmanager
def locked(folder):
    """Another program holds the journal."""
    db = sqlite3.connect(Path(folder) / "journal.sqlite3", isolation_level=None, timeout=30)
    db.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


@pytest.fixture
def impatient(monkeypatch):
    """With whoever holds the journal."""
    monkeypatch.setattr("flux_krea.nodes.jobs.journal_file.WAIT_FOR_LOCK", 0.1)
    monkeypatch.setattr(paid_call_module, "TRY_DISK_AGAIN", 0.02)
    monkeypatch.setattr("flux_krea.nodes.jobs.journal.TRY_AGAIN", 0.02)
    monkeypatch.setattr(paid_call_module, "TELL_OF_DISK", 0.1)


# The disk is full


@pytest.mark.parametrize("state", [ACCEPTED, DELIVERED])
@pytest.mark.parametrize("provider_id", ["fake", "blocking"])
def test_a_disk_that_fills_up_under_a_paid_job_is_named_and_the_same_run_goes_on_when_there_is_room(
    jobs, server, disk, provider_id, state
):
    if (provider_id, state) == ("blocking", ACCEPTED):
        state = DELIVERED  # it has no job in between
    disk.from_state = state
    error = failure(jobs.start(provider_id, asked()))
    assert isinstance(error, Unavailable) and error.paid is True
    assert "disk" in str(error) and "kept in memory" in str(error) and "run again" in str(error)
    disk.make_room()
    assert run(jobs, provider_id).pictures[0].read() == png()
    assert server.paid == server.count("submit") == 1


def test_a_picture_that_came_as_text_outlives_a_full_disk(tmp_path, server, disk, monkeypatch):
    import base64

    url = "data:image/png;base64," + base64.b64encode(png()).decode()

    def submit_text(plan):
        call = fake_provider.Call("POST", f"{fake_provider.API}/blocking", json=dict(plan.payload), paid=True)
        body = fake_provider.submitted((yield call))
        disk.is_full = True  # while the answer was on its way
        return fake_provider.delivery({**body, "pictures": [url]})

    jobs = Jobs(
        tmp_path, tmp_path / "pictures", {"blocking": replace(BLOCKING, submit=submit_text)}, fake_provider.QUICK
    )
    for _ in range(2):
        error = failure(jobs.start("blocking", asked()))
        assert "The disk has no room" in str(error) and error.paid is True
    disk.make_room()
    assert run(jobs, "blocking").pictures[0].read() == png() and server.paid == 1
    assert Jobs(tmp_path, tmp_path / "pictures", PROVIDERS).start("blocking", asked()).result(LONG).reused == 1
    jobs.close()


def test_on_a_disk_that_is_full_before_anything_is_sent_nothing_is_paid_and_the_next_run_is_free_to(jobs, server, disk):
    run(jobs, seed=9)
    for full in ({"is_full": True}, {"from_state": SENDING}):
        disk.__dict__.update(full)
        error = failure(jobs.start("fake", asked()))
        assert error.paid is False and "nothing is paid" in str(error).lower()
        disk.make_room()
    assert server.paid == 1
    assert run(jobs).reused == 0 and server.paid == 2


def test_a_job_left_while_the_disk_was_full_goes_on_in_this_process_and_is_not_waited_for_by_others(
    jobs, server, disk, tmp_path
):
    """Its address fails, and the row cannot say that nobody works on it any more."""
    server.faults["picture"] = [500] * 1000

    def full(handler):
        disk.is_full = True
        handler.answer(500, {})

    server.faults["picture"].insert(0, full)
    assert failure(jobs.start("fake", asked())).paid is True
    disk.make_room()
    server.faults.clear()
    assert jobs_in(tmp_path).start("fake", asked()).result(LONG).pictures[0].read() == png()
    assert server.paid == 1


def test_what_was_declined_while_the_journal_cannot_be_written_is_no_dead_end(jobs, server, disk, tmp_path):
    def declined(handler):
        disk.is_full = True
        handler.answer(429, {})

    server.faults["submit"] = [declined]
    error = failure(jobs.start("fake", asked()))
    assert error.paid is False, str(error)
    disk.make_room()
    assert run(jobs).pictures and server.paid == 1


def test_a_disk_that_is_full_for_a_moment_is_shown_and_ends_nothing_and_the_process_waits_for_it(
    jobs, server, disk, monkeypatch
):
    monkeypatch.setattr(paid_call_module, "TELL_OF_DISK", LONG)
    disk.from_state = ACCEPTED
    handle = jobs.start("fake", asked())
    until(lambda: "The disk has no room" in handle.progress.text)
    [call] = jobs._working
    assert call.is_at_risk
    disk.make_room()
    assert handle.result(LONG).pictures and not call.is_at_risk and server.paid == 1


# The journal is locked by another program


def test_a_journal_that_another_program_holds_is_said_and_nothing_is_paid(jobs, server, tmp_path, impatient):
    run(jobs)
    with locked(tmp_path):
        error = failure(jobs.start("fake", asked(2)))
        assert "journal" in str(error) and "nothing is paid" in str(error)
    assert run(jobs, seed=2).pictures and server.paid == 2


def test_a_journal_held_under_a_running_job_is_waited_for_and_said(jobs, server, tmp_path, impatient):
    server.duration = None
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    with locked(tmp_path):
        server.duration = 0.0
        error = failure(handle)
        assert "journal" in str(error) and "close the program" in str(error) and error.paid is True
    assert run(jobs).pictures[0].read() == png() and server.paid == 1


def test_a_journal_held_while_this_waits_for_another_process_is_said_in_plain_words(jobs, server, tmp_path, impatient):
    server.duration = None
    first = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    other = jobs_in(tmp_path).start("fake", asked())
    until(lambda: "under way" in other.progress.text)
    with locked(tmp_path):
        error = failure(other)
    assert "journal" in str(error) and "unforeseen" not in str(error)
    server.duration = 0.0
    assert first.result(LONG).pictures and server.paid == 1


def test_a_journal_that_cannot_be_read_for_a_moment_leaves_no_run_that_never_ends(jobs, server, monkeypatch):
    server.faults["poll"] = ["reset"] * 1000
    handle = jobs.start("fake", asked())
    failure(handle)
    server.faults.clear()
    claim_existing = jobs._journal.claim_existing

    def once(name):
        monkeypatch.setattr(jobs._journal, "claim_existing", claim_existing)
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(jobs._journal, "claim_existing", once)
    assert "locked" in str(failure(jobs.collect(handle.ticket)))
    assert run(jobs).pictures and server.paid == 1


# What a provider writes


def test_a_provider_that_writes_half_a_character_leaves_no_run_that_never_ends(tmp_path, server):
    def odd(plan):
        yield fake_provider.Call("POST", f"{fake_provider.API}/jobs", json=dict(n=1, seed=1), paid=True)
        raise GenerationFailed("it failed \ud83d", paid=True)

    jobs = Jobs(tmp_path, tmp_path, {"fake": replace(fake_provider.QUEUE, submit=odd)}, fake_provider.QUICK)
    for _ in range(2):
        assert isinstance(failure(jobs.start("fake", asked())), GenerationFailed)
    assert server.paid == 1


# Cancel races


def test_a_job_that_finishes_although_its_cancel_was_granted_is_fetched_and_not_paid_again(jobs, server, tmp_path):
    server.duration = None
    granted = []
    server.faults["cancel"] = [lambda handler: (granted.append(1), handler.answer(202, {}))]
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    handle.cancel()
    until(lambda: granted)
    server.duration = 0.0
    assert run(jobs).pictures[0].read() == png()
    assert run(jobs_in(tmp_path)).reused == 1 and server.paid == 1


def test_a_job_that_finished_between_the_cancel_and_a_kill_is_fetched_by_the_next_process(server, tmp_path):
    server.duration = None
    script = """
        import os, sys, time
        jobs = jobs_in(sys.argv[1])
        handle = jobs.start("fake", asked(1))
        while not any(record.state == "accepted" for record in jobs.pending()):
            time.sleep(0.01)
        handle.cancel()
        while not any(record.note == "cancel asked" for record in jobs.pending()):
            time.sleep(0.01)
        os._exit(9)
    """
    server.faults["cancel"] = [lambda handler: handler.answer(202, {})] * 9
    assert in_a_process(script, server, tmp_path).wait(LONG) == 9
    server.duration = 0.0
    jobs = jobs_in(tmp_path)
    assert run(jobs).pictures[0].read() == png() and server.paid == 1
    assert states(jobs) == ["done"]


def test_a_job_that_was_cancelled_counts_for_the_limit_and_may_be_ordered_again(jobs, server):
    server.duration = None
    handle = jobs.start("fake", asked(), budget_key="run", max_cost_usd=0.05)
    assert server.arrived["poll"].wait(LONG)
    handle.cancel()
    until(lambda: not jobs._live)
    server.duration = 0.0
    run(jobs, budget_key="run", max_cost_usd=0.05)
    assert isinstance(failure(jobs.start("fake", asked(2), budget_key="run", max_cost_usd=0.05)), OverBudget)


def test_cancelling_between_the_paid_call_and_its_job_does_not_call_it_unpaid(tmp_path, server):
    """A provider that makes a free call after the paid one, in the same breath."""

    def two_steps(plan):
        job = fake_provider.submitted(
            (yield fake_provider.Call("POST", f"{fake_provider.API}/jobs", json=dict(plan.payload), paid=True))
        )
        yield fake_provider.Call("POST", f"{fake_provider.API}/uploads", json={})
        return {"id": job["id"]}

    jobs = Jobs(tmp_path, tmp_path, {"fake": replace(fake_provider.FORGETFUL, submit=two_steps)}, fake_provider.QUICK)
    gate = threading.Event()
    server.faults["upload"] = [lambda handler: (gate.wait(LONG), handler.answer(503, {}))]
    server.faults["cancel"] = [400]
    handle = jobs.start("fake", asked())
    assert server.arrived["upload"].wait(LONG)
    handle.cancel()
    gate.set()
    assert run(jobs).pictures and server.paid == 1


def test_another_process_that_cancels_does_not_stop_the_job_that_this_one_waits_for(jobs, server, tmp_path):
    server.duration = None
    other = jobs_in(tmp_path)
    theirs = other.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    mine = jobs.start("fake", asked())
    until(lambda: "under way" in mine.progress.text)
    theirs.cancel()
    time.sleep(0.2)
    server.duration = 0.0
    assert mine.result(LONG).pictures and server.cancelled == [] and server.paid == 1


def test_a_late_write_of_a_cancel_does_not_undo_what_was_written_since(jobs, server, monkeypatch):
    """The cancelling thread's write is held up until the job has ended in the other thread."""
    server.duration = None
    save, held, go_on = Journal.save, threading.Event(), threading.Event()

    def hold_cancel(journal, record):
        if threading.current_thread().name == "krea-cancel":
            held.set()
            go_on.wait(1.0)
        save(journal, record)

    monkeypatch.setattr(Journal, "save", hold_cancel)
    server.faults["poll"] = [lambda handler: (server.let_go.wait(0.5), handler.answer(200, {"status": "queued"}))]
    server.faults["cancel"] = [lambda handler: handler.answer(202, {})]
    handle = jobs.start("fake", asked())
    assert server.arrived["poll"].wait(LONG)
    handle.cancel()
    assert held.wait(LONG)
    server.duration = 0.0
    until(lambda: server.count("cancel") or states(jobs) == ["done"])
    go_on.set()
    until(lambda: not jobs._live and not [t for t in threading.enumerate() if t.name == "krea-cancel"])
    assert states(jobs) == ["done"] and run(jobs).reused == 1 and server.paid == 1


# Collecting


def test_collecting_what_another_process_fails_to_make_says_so_and_not_that_money_is_short(jobs, server, tmp_path):
    gate = threading.Event()
    server.faults["upload"] = [lambda handler: (gate.wait(LONG), handler.answer(422, {}))]
    server.faults["submit"] = [422]
    handle = jobs.start("fake", asked())
    assert server.arrived["upload"].wait(LONG)
    waiting = jobs_in(tmp_path).collect(handle.ticket)
    until(lambda: "under way" in waiting.progress.text)
    gate.set()
    error = failure(waiting)
    assert "failed or was cancelled meanwhile" in str(error) and server.paid == 0


def test_a_ticket_gets_the_picture_that_exists_and_not_the_later_order_whose_answer_was_lost(jobs, server, tmp_path):
    ticket = jobs.start("forgetful", asked())
    ticket.result(LONG)
    server.faults["submit"] = ["reset_after"]
    assert isinstance(failure(jobs.start("forgetful", asked(), reuse=False)), UnknownOutcome)
    assert jobs_in(tmp_path).collect(ticket.ticket).result(LONG).reused == 1


# Limits


def test_twenty_nodes_with_the_same_values_and_reuse_off_under_a_limit_for_two_pay_two(jobs, server, monkeypatch):
    for limit in ({"max_cost_usd": 0.05}, {}):
        if not limit:
            monkeypatch.setenv("FLUX_KREA_MAX_COST_USD", "0.05")
        before = server.paid
        handles = [jobs.start("fake", asked(), reuse=False, budget_key=f"run {limit}", **limit) for _ in range(20)]
        errors = [handle.future.exception(LONG) for handle in handles]
        assert sum(isinstance(error, OverBudget) for error in errors) == 18 and server.paid - before == 2


def test_drawn_and_fixed_seeds_count_for_one_limit(jobs, server):
    start = [
        lambda seed: jobs.start("fake", asked(seed), drawn_by="run", budget_key="run", max_cost_usd=0.05),
        lambda seed: jobs.start("fake", asked(seed), budget_key="run", max_cost_usd=0.05),
    ]
    handles = [start[seed % 2](seed + 1) for seed in range(8)]
    assert sum(isinstance(handle.future.exception(LONG), OverBudget) for handle in handles) == 6
    assert server.paid == 2


# Processes


HEAD = f"import sys; sys.path[:0] = [{str(Path(fake_provider.__file__).parent)!r}]\nfrom fake_provider import *\n"


def in_a_process(script, server, folder, **options):
    environment = {
        **os.environ,
        "FAKE_KEY": fake_provider.KEY,
        **{f"FLUX_KREA_BASE_URL_{name.upper()}": server.url for name in PROVIDERS},
    }
    code = HEAD + textwrap.dedent(script)
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, **options)


WAITING = """
    import logging, signal
    logging.basicConfig()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts in the background ignores it
    handle = jobs_in(sys.argv[1]).start("blocking", asked(1))
    handle.result(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child")
def test_ctrl_c_waits_for_a_paid_answer_and_files_it(server, tmp_path):
    import signal

    server.duration = None
    process = in_a_process(WAITING, server, tmp_path, stderr=subprocess.PIPE, text=True)
    assert server.arrived["submit"].wait(LONG)
    process.send_signal(signal.SIGINT)
    line = next(line for line in process.stderr if "Ctrl+C" in line)
    assert "Blocking" in line and process.poll() is None
    server.let_go.set()  # the answer comes
    process.communicate(timeout=LONG)
    assert run(jobs_in(tmp_path), "blocking").reused == 1 and server.paid == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child")
def test_a_second_ctrl_c_ends_it_at_once(server, tmp_path):
    import signal

    server.duration = None
    process = in_a_process(WAITING, server, tmp_path, stderr=subprocess.PIPE, text=True)
    assert server.arrived["submit"].wait(LONG)
    process.send_signal(signal.SIGINT)
    next(line for line in process.stderr if "Ctrl+C" in line)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONG)
    assert states(jobs_in(tmp_path)) == [UNKNOWN]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_worker_forked_while_an_answer_is_on_its_way_ends_by_itself(server, tmp_path):
    server.duration = None
    script = """
        import os, time
        handle = jobs_in(sys.argv[1]).start("blocking", asked(1))
        while "submit" not in open(sys.argv[1] + "/seen").read():
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            sys.exit(3)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                os._exit(os.waitstatus_to_exitcode(status))
            time.sleep(0.05)
        os.kill(child, 9)
        os._exit(99)
    """
    (tmp_path / "seen").write_text("")
    process = in_a_process(script, server, tmp_path)
    assert server.arrived["submit"].wait(LONG)
    (tmp_path / "seen").write_text("submit")
    assert process.wait(LONG) == 3


# auto


@pytest.fixture
def market(tmp_path, server, monkeypatch):
    for name in ("cheap", "dear"):
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name.upper()}", server.url)
        monkeypatch.setenv(f"{name.upper()}_KEY", fake_provider.KEY)

    def priced(name, usd):
        label, variable = name.capitalize(), f"{name.upper()}_KEY"
        return replace(
            fake_provider.QUEUE,
            label=label,
            key_variable=variable,
            estimate=lambda request: fake_provider.Estimate(usd),
        )

    providers = {"dear": priced("dear", 0.05), "cheap": priced("cheap", 0.02)}
    return Jobs(tmp_path, tmp_path / "pictures", providers, fake_provider.QUICK)


def test_auto_asks_the_provider_with_a_good_key_when_another_key_is_malformed(market, server, monkeypatch):
    monkeypatch.setenv("CHEAP_KEY", "two words and a\nline")
    assert run(market, "auto").provider == "dear" and server.paid == 1


def test_auto_moves_on_from_a_429_at_once(market, server):
    server.faults["submit"] = [429]
    assert run(market, "auto").provider == "dear"
    assert server.count("submit") == 2 and server.paid == 1


def test_auto_pays_nowhere_else_when_the_provider_of_an_interrupted_job_has_lost_its_key(market, server, monkeypatch):
    server.faults["poll"] = ["reset"] * 1000
    failure(market.start("auto", asked()))
    server.faults.clear()
    monkeypatch.delenv("CHEAP_KEY")
    with pytest.raises(ProviderError, match="no key for Cheap"):
        market.start("auto", asked()).result(LONG)
    assert server.paid == 1
    monkeypatch.setenv("CHEAP_KEY", fake_provider.KEY)
    assert run(market, "auto").provider == "cheap" and server.paid == 1


def test_auto_with_a_journal_that_another_program_holds_is_a_sentence(market, server, tmp_path, impatient):
    run(market, "auto")
    with locked(tmp_path), pytest.raises(Unavailable, match="journal"):
        market.start("auto", asked(2)).result(LONG)
    assert server.paid == 1


def test_auto_is_not_kept_from_paying_by_what_a_person_put_aside_where_there_is_no_key_now(market, server, monkeypatch):
    server.faults.update({"submit": ["reset"], "list": [401] * 1000})
    failure(market.start("auto", asked()))
    server.faults.clear()
    assert market.dismiss(market.pending()[0].id)
    monkeypatch.delenv("CHEAP_KEY")
    assert run(market, "auto").provider == "dear" and server.paid == 1


# No dead ends


def test_what_is_not_in_the_providers_list_is_said_and_ordered_again_after_a_person_has_agreed(jobs, server, tmp_path):
    server.faults["submit"] = ["reset"]
    error = failure(jobs.start("fake", asked()))
    assert isinstance(error, UnknownOutcome) and "not in its list of jobs" in str(error) and "Order again" in str(error)
    jobs = jobs_in(tmp_path)
    assert isinstance(failure(jobs.start("fake", asked())), UnknownOutcome) and server.paid == 0
    assert jobs.dismiss(jobs.pending()[0].id)
    assert run(jobs).pictures[0].read() == png() and run(jobs).reused == 1 and server.paid == 1


def test_a_lost_order_that_turns_up_in_the_list_later_is_fetched_and_not_ordered_again(jobs, server):
    server.faults.update({"submit": ["reset_after"], "list": [lambda handler: handler.answer(200, [])] * 9})
    assert isinstance(failure(jobs.start("fake", asked())), UnknownOutcome)
    server.faults.clear()
    assert run(jobs).reused == 1 and server.paid == 1
