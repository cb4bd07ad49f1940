import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flux_krea.nodes.jobs import journal as journal_module
from flux_krea.nodes.jobs.job_record import (
    ACCEPTED,
    CANCELLED,
    DELIVERED,
    DONE,
    FAILED,
    RESERVED,
    SENDING,
    SPENT,
    UNKNOWN,
    JobRecord,
)
from flux_krea.nodes.jobs.journal import Journal
from flux_krea.nodes.jobs.journal_file import Table
from flux_krea.nodes.jobs.limits import Limits
from flux_krea.nodes.jobs.records import Records
from flux_krea.nodes.providers.contract import OverBudget, Unavailable

ENOUGH = Limits(None, 100.0, 100.0)


def journal_in(folder):
    return Journal(folder, Records(folder / "pictures"))


@pytest.fixture
def journal(tmp_path):
    journal = journal_in(tmp_path)
    yield journal
    journal.close()


def planned(payload="a", run="", usd=0.025):
    return JobRecord("fake", "fake/krea", payload, {"prompt": "a lighthouse"}, run, usd)


def claimed(journal, payload="a", run=""):
    [(record, is_mine)] = journal.claim([planned(payload, run)], ENOUGH)
    assert is_mine
    return record


def paid(journal, payload="a", state=DONE, run="", **values):
    record = replace(claimed(journal, payload, run), state=state, owner=None, **values)
    journal.save(record)
    return record


def left_by_the_dead(tmp_path, state, **values):
    """A record as a killed process leaves it: its owner's lock is gone, its owner's name is not."""
    journal = journal_in(tmp_path)
    run = values.pop("run", "")
    journal.save(replace(claimed(journal, run=run), state=state, owner="999-dead", **values))
    journal.close()


def test_a_record_comes_back_as_it_was_saved(journal, tmp_path):
    record = claimed(journal)
    assert record.state == RESERVED
    record = replace(record, state=DONE, job={"id": "7"}, delivery={"pictures": ["x"]}, pictures=["a.png"], billed=0.05)
    journal.save(record)
    assert journal_in(tmp_path).record(record.id) == record == Records(tmp_path / "pictures").read(record.id)


def test_nobody_else_on_the_machine_reads_the_prompts(tmp_path):
    (tmp_path / "private").mkdir(mode=0o755)
    paid(journal_in(tmp_path / "private"))
    for path in (tmp_path / "private").rglob("*"):
        if path.suffix in (".sqlite3", ".json") or path.name == "pictures":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_what_a_living_process_works_on_is_not_claimed(journal, tmp_path):
    record = claimed(journal)
    [(seen, is_mine)] = journal_in(tmp_path).claim([planned()], ENOUGH)
    assert (seen.id, is_mine) == (record.id, False)


def test_what_nobody_of_this_process_works_on_any_more_is_claimed_again_although_the_journal_says_otherwise(journal):
    record = replace(claimed(journal), state=ACCEPTED, job={"id": "7"})
    journal.save(record)
    assert journal.claim([planned()], ENOUGH)[0][1] is False
    journal._working.discard(record.id)  # as `release` does where the disk is full and the row cannot be written
    [(again, is_mine)] = journal.claim([planned()], ENOUGH)
    assert (again.id, is_mine) == (record.id, True)


@pytest.mark.parametrize(
    ("left", "found"), [(SENDING, UNKNOWN), (UNKNOWN, UNKNOWN), (ACCEPTED, ACCEPTED), (DELIVERED, DELIVERED)]
)
def test_what_a_dead_process_left_is_taken_over(journal, tmp_path, left, found):
    left_by_the_dead(tmp_path, left, job={"id": "7"})
    assert [record.state for record in journal.pending()] == [found]
    [(record, is_mine)] = journal.claim([planned()], ENOUGH)
    assert (record.state, record.job, is_mine) == (found, {"id": "7"}, True)


def test_a_reservation_of_a_dead_process_costs_nothing(journal, tmp_path):
    left_by_the_dead(tmp_path, RESERVED, run="run")
    [(record, is_mine)] = journal.claim([planned(run="run")], Limits(0.025, 0.025, 0.025))
    assert is_mine and record.state == RESERVED and journal.pending() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_worker_does_not_keep_its_parent_alive(tmp_path):
    """Another pack's worker process outlives the ComfyUI that forked it."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        journal = journal_in(tmp_path)
        journal.save(replace(claimed(journal), state=ACCEPTED, job={"id": "7"}))
        if os.fork() == 0:
            os.close(writing)
            time.sleep(5)
        os._exit(0)
    os.close(writing)
    os.waitpid(parent, 0)
    os.read(reading, 1)  # at its end once the parent is gone
    [(record, is_mine)] = journal_in(tmp_path).claim([planned()], ENOUGH)
    assert is_mine and record.job == {"id": "7"}


@pytest.mark.parametrize("state", [FAILED, CANCELLED])
def test_what_is_over_is_not_found_again(journal, state):
    record = paid(journal, state=state)
    assert claimed(journal).id != record.id


def test_without_reuse_every_record_is_new(journal):
    record = claimed(journal)
    [(again, is_mine)] = journal.claim([planned()], ENOUGH, reuse=False)
    assert is_mine and again.id != record.id


# Limits


@pytest.mark.parametrize("limits", [Limits(0.05, 9.0, 9.0), Limits(None, 0.05, 9.0), Limits(None, 9.0, 0.05)])
@pytest.mark.parametrize("payloads", ["abcdefgh", "aaaaaaaa"])
def test_a_limit_holds_between_processes_and_threads_and_counts_payments(tmp_path, limits, payloads):
    outcomes, start = [], threading.Barrier(8)
    journals = [journal_in(tmp_path) for _ in range(8)]

    def reserve(index):
        start.wait()
        try:
            journals[index].claim([planned(payloads[index], "run")], limits, reuse=False)
            outcomes.append("reserved")
        except OverBudget:
            outcomes.append("refused")

    threads = [threading.Thread(target=reserve, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 6 + ["reserved"] * 2


def test_the_runs_limit_is_for_one_run_and_the_days_for_all(journal):
    limits = Limits(None, 0.05, 0.12)
    for run in ("first", "second"):
        for payload in "ab":
            paid_now = replace(journal.claim([planned(run + payload, run)], limits)[0][0], state=DONE, owner=None)
            journal.save(paid_now)
        with pytest.raises(OverBudget, match="one run"):
            journal.claim([planned(run + "c", run)], limits)
    with pytest.raises(OverBudget, match="24 hours"):
        journal.claim([planned("third", "third")], limits)
    assert journal.spent("first") == pytest.approx((0.05, 0.1))


@pytest.mark.parametrize("usd", [0.0, None])
def test_what_costs_nothing_passes_a_limit_of_nothing(journal, usd):
    assert journal.claim([planned("a", "run", usd)], Limits(0.0, 0.0, 0.0))[0][1]


def test_all_of_one_request_is_reserved_or_nothing(journal):
    with pytest.raises(OverBudget, match=r"\$0\.075"):
        journal.claim([planned(name, "run") for name in "abc"], Limits(0.05, 9.0, 9.0))
    assert journal.newest("a") is None and journal.spent("run") == (0, 0)


def test_what_was_billed_counts_and_what_was_not_spent_does_not(journal):
    record = paid(journal, "a", run="run", billed=0.05)
    with pytest.raises(OverBudget, match=r"\$0\.00 is left"):
        journal.claim([planned("b", "run")], Limits(0.05, 9.0, 9.0))
    journal.save(replace(record, state=FAILED, reserved=0.0, billed=None))
    assert journal.claim([planned("b", "run")], Limits(0.05, 9.0, 9.0))[0][1]


def test_a_bill_of_nothing_for_a_picture_frees_no_limit(journal):
    paid(journal, "a", run="run", billed=0.0)
    assert journal.spent("run") == (0.025, 0.025)


def test_a_dearer_price_is_held_against_the_limits_before_it_is_sent(journal):
    paid(journal, "a", run="run")
    record = claimed(journal, "b", run="run")
    with pytest.raises(OverBudget, match=r"about \$0\.05\. .*one run is \$0\.06, of which \$0\.035 is left"):
        journal.reserve(record, 0.05, Limits(None, 0.06, 9.0))
    assert journal.spent("run") == (0.05, 0.05)
    with pytest.raises(OverBudget, match="24 hours"):
        journal.reserve(record, 0.05, Limits(None, 9.0, 0.06))
    journal.reserve(record, 0.05, Limits(0.075, 9.0, 9.0))
    assert journal.spent("run") == pytest.approx((0.075, 0.075)) and journal.newest("b").reserved == 0.05
    with pytest.raises(Unavailable, match="has lost what was set aside"):
        journal.reserve(replace(record, id="0" * 32), 0.05, ENOUGH)


@pytest.mark.parametrize("run", ["", "run"])
@pytest.mark.parametrize("set_aside", [None, 0.0, 0.02])
def test_a_dearer_price_is_held_against_what_others_cost_and_not_against_what_was_set_aside_for_itself(
    journal, run, set_aside
):
    """Without a run's name it is a run by itself."""
    paid(journal, "a", run=run)
    [(record, _)] = journal.claim([planned("b", run, set_aside)], Limits(None, 0.025 * bool(run) + (set_aside or 0), 1))
    others = 0.025 if run else 0.0
    with pytest.raises(OverBudget):
        journal.reserve(record, 0.05, Limits(None, others + 0.049, 9.0))
    with pytest.raises(OverBudget):
        journal.reserve(record, 0.05, Limits(None, 9.0, 0.074))
    journal.reserve(record, 0.05, Limits(None, others + 0.05, 0.075))
    assert journal.spent(run) == pytest.approx((others + 0.05 * bool(run), 0.075))


@pytest.mark.parametrize("days", [45, -45, 2, -2])
def test_a_clock_that_jumps_frees_nothing_that_was_paid_today(journal, monkeypatch, days):
    paid(journal, "a")
    now = time.time() + days * 86400
    monkeypatch.setattr(journal_module.time, "time", lambda: now)
    assert journal.spent()[1] == 0.025
    paid(journal, "b")
    monkeypatch.undo()
    assert journal.spent()[1] == 0.05


@pytest.mark.parametrize(("seconds", "counts"), [(86399.0, True), (86400.0, False)])
def test_a_payment_counts_for_exactly_24_hours(journal, tmp_path, monkeypatch, seconds, counts):
    created = 1_700_000_000.0
    paid(journal, created=created)
    monkeypatch.setattr(journal_module.time, "time", lambda: created + seconds)
    assert journal_in(tmp_path).spent() == (0, 0.025 * counts)


def test_yesterdays_payments_are_over(journal, tmp_path):
    paid(journal, "a", created=time.time() - 25 * 3600)
    assert journal_in(tmp_path).spent() == (0, 0)


# Damage


@pytest.mark.parametrize(
    "damage",
    [b"not a database at all, " * 50, b"SQLite format 3\0" + b"\xff" * 5000, b"", "deleted", "emptied", "foreign"],
)
def test_a_lost_journal_is_rebuilt_from_the_records_and_says_so_before_it_pays(tmp_path, caplog, damage):
    first = journal_in(tmp_path)
    done = paid(first, "done", pictures=["x.png"], run="old")
    lost = paid(first, "lost", state=UNKNOWN)
    paid(first, "spent", state=SPENT)
    paid(first, "failed", state=FAILED, reserved=0.0)
    first.close()
    path = tmp_path / "journal.sqlite3"
    for leftover in tmp_path.glob("journal.sqlite3-*"):
        leftover.unlink()
    if damage == "emptied":
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM jobs")
    elif damage == "foreign":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE jobs (name TEXT)")
    elif damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(damage)
    journal = journal_in(tmp_path)
    assert journal.claim([planned("done")], ENOUGH) == [(done, False)]
    assert journal.claim([planned("lost")], ENOUGH)[0][0].id == lost.id
    for _ in range(2):
        with pytest.raises(Unavailable, match="3 were read back.*Nothing was sent or paid"):
            journal.claim([planned("new", "run")], ENOUGH)
    assert "read back" in caplog.text
    assert journal.claim([planned("new", "next run")], ENOUGH)[0][1]
    assert len(journal.pending()) == 2 and journal.spent("old")[0] == 0.025


def test_a_journal_that_lost_its_rows_while_it_is_in_use_gets_them_back(journal, tmp_path):
    record = paid(journal)
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("DELETE FROM jobs")
    assert journal.claim([planned()], ENOUGH) == [(record, False)]


def test_a_journal_damaged_during_the_run_keeps_what_is_under_way(journal, tmp_path):
    for index in range(50):
        claimed(journal, str(index))
    record = claimed(journal, "mine")
    path = tmp_path / "journal.sqlite3"
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    other = journal_in(tmp_path)
    with pytest.raises(Unavailable, match="damaged"):
        other.claim([planned("theirs")], ENOUGH)
    journal.save(replace(record, state=ACCEPTED, job={"id": "7"}))
    assert other.record(record.id).job == {"id": "7"}
    assert len(list(tmp_path.glob("journal.corrupt-*.sqlite3"))) == 1


def test_a_damaged_journal_that_cannot_be_moved_is_an_error_and_no_journal_in_memory(tmp_path, monkeypatch):
    (tmp_path / "journal.sqlite3").write_bytes(b"not a database at all" * 50)

    def cannot(*_):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("flux_krea.nodes.jobs.journal_file.os.replace", cannot)
    with pytest.raises(PermissionError):
        journal_in(tmp_path).claim([planned()], ENOUGH)


@pytest.mark.parametrize("with_record", [True, False])
def test_a_row_nobody_can_read_hides_no_other_and_stands_for_its_payload(journal, tmp_path, with_record):
    record = paid(journal, state=ACCEPTED, job={"id": "7"})
    other = paid(journal, "b")
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("UPDATE jobs SET job = '{', request = 'x' WHERE id = ?", (record.id,))
    if not with_record:
        Records(tmp_path / "pictures").remove(record.id)
    assert {it.id for it in journal.pending()} == {record.id, other.id}
    [(found, is_mine)] = journal.claim([planned()], ENOUGH)
    assert is_mine and (found.id, found.state) == (record.id, ACCEPTED if with_record else UNKNOWN)


def test_a_fresh_installation_has_nothing_to_say(tmp_path):
    assert journal_in(tmp_path / "new").claim([planned()], ENOUGH)[0][1]


# Version 0.1.0


SAVED = Path(__file__).parent / "saved_by_0_1_0"


def test_a_journal_of_version_0_1_0_is_read_and_its_jobs_get_records(tmp_path):
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.executescript((SAVED / "journal.sql").read_text())
    db.close()
    journal = journal_in(tmp_path)
    states = {record.id[-1]: record.state for record in journal.pending()}
    assert states == {"1": ACCEPTED, "2": DELIVERED, "3": DONE, "4": UNKNOWN, "8": UNKNOWN}
    accepted = journal.newest("79884dd4aace5d1e6252fc6d273e488223d093d0")
    assert accepted.job == {"request_id": "req-1"} and accepted.budget_key.startswith("purse")
    assert [it.id[-1] for it in journal.uncollected(accepted.seedless_key.rpartition("/")[0])] == ["1", "3"]
    assert {name[-1] for name in Records(tmp_path / "pictures").ids()} == set("1234578")
    journal.close()
    (tmp_path / "journal.sqlite3").unlink()
    assert len(journal_in(tmp_path).pending()) == 5


# Collecting and forgetting


def test_only_what_is_finished_and_collected_is_forgotten(journal, monkeypatch, tmp_path):
    monkeypatch.setattr(journal_module, "KEEP_PICTURE_BYTES", 25)
    for name in "abc":
        paid(journal, name, pictures=[f"{name}.png"], bytes=10, created=time.time() - 2 * 86400)
    journal._reserved.clear()  # as another process sees them
    assert journal.prune() == []  # nobody has collected them
    journal.set_collected("abc")
    assert journal.prune() == ["a.png"]
    monkeypatch.setattr(journal_module, "KEEP_SECONDS", -1.0)
    kept = {
        state: paid(journal, state, state=state).id for state in (ACCEPTED, DELIVERED, UNKNOWN, SPENT, CANCELLED, DONE)
    }
    claimed(journal, "under way")
    assert sorted(journal.prune()) == ["b.png", "c.png"]
    assert journal.newest("under way") and all(journal.record(record_id) for record_id in kept.values())
    assert Records(tmp_path / "pictures").ids() == set(kept.values())


def test_collected_pictures_are_kept_up_to_2_gib_as_the_readme_promises(journal, tmp_path):
    for name, size in (("oldest", 1), ("older", 2**30), ("newest", 2**30)):
        paid(journal, name, pictures=[f"{name}.png"], bytes=size, created=time.time() - 2 * 86400)
    names = ("oldest", "older", "newest")
    journal.set_collected(names)
    assert journal_in(tmp_path).prune() == ["oldest.png"]
    assert [journal.newest(name) is not None for name in names] == [False, True, True]


@pytest.mark.parametrize(("seconds", "gone"), [(30 * 86400 - 60, []), (30 * 86400 + 60, ["a.png"])])
def test_collected_pictures_are_kept_for_30_days_as_the_readme_promises(journal, tmp_path, monkeypatch, seconds, gone):
    paid(journal, "a", pictures=["a.png"], bytes=10)
    paid(journal, "b", pictures=["b.png"], bytes=10)  # nobody has collected it
    journal.set_collected("a")
    now = time.time() + seconds
    monkeypatch.setattr(journal_module.time, "time", lambda: now)
    assert journal_in(tmp_path).prune() == gone


def test_a_picture_that_is_gone_from_the_disk_is_fetched_by_one_process(journal, tmp_path):
    done = paid(journal)
    record, is_mine = journal.reopen(replace(done))
    seen, is_theirs = journal_in(tmp_path).reopen(replace(done))
    assert (record.id, record.state, is_mine) == (seen.id, seen.state, True) == (done.id, DELIVERED, True)
    assert not is_theirs


def test_a_finished_job_waits_until_it_is_collected(journal):
    records = [claimed(journal, name) for name in "ab"]
    journal.set_collected("ab")  # both are still under way
    for record in records:
        journal.save(replace(record, state=DONE, owner=None))
    assert [record.waits_as for record in journal.pending()] == ["ready", "ready"]
    journal.set_collected(["a", records[1].id])
    assert journal.pending() == []


@pytest.mark.parametrize("state", [UNKNOWN, SPENT])
def test_a_dismissed_loss_stands_in_nobodys_way(journal, state):
    record = claimed(journal)
    journal.save(replace(record, state=ACCEPTED))
    assert not journal.dismiss(record.id) and [it.waits_as for it in journal.pending()] == ["under way"]
    journal.save(replace(record, state=state, owner=None))
    assert journal.dismiss(record.id) and journal.pending() == []
    assert claimed(journal).id != record.id and journal.newest(record.id).id == record.id


def test_a_job_has_one_record_only(journal):
    first, second = paid(journal, "a", state=UNKNOWN), paid(journal, "b", state=UNKNOWN)
    assert journal.adopt({"id": "7"}, replace(first, state=ACCEPTED, job={"id": "7"}))
    assert not journal.adopt({"id": "7"}, replace(second, state=ACCEPTED, job={"id": "7"}))
    assert journal.record(second.id).state == UNKNOWN


def test_who_waits_for_a_job_of_another_process_is_seen_while_it_lives(journal, tmp_path):
    other = journal_in(tmp_path)
    other.say_wanted("job")
    assert journal.is_wanted("job") and not other.is_wanted("job") and not journal.is_wanted("another")
    other.close()
    assert not journal.is_wanted("job")


def test_the_state_is_on_disk_before_the_next_step(journal, tmp_path):
    journal.save(replace(claimed(journal), state=SENDING, sent=time.time()))
    with sqlite3.connect(tmp_path / "journal.sqlite3") as reader:
        assert reader.execute("SELECT state FROM jobs").fetchall() == [(SENDING,)]


# What two witnesses say


@pytest.mark.parametrize(("row", "file"), [(RESERVED, ACCEPTED), (SENDING, ACCEPTED), (ACCEPTED, DELIVERED)])
def test_what_a_dead_process_wrote_beside_the_pictures_counts_where_the_row_is_behind(tmp_path, row, file):
    """It was killed between the two, or the journal was put back from an older copy."""
    left_by_the_dead(tmp_path, row)
    record = journal_in(tmp_path)._file.transaction(lambda table: table.first("1", ()))
    Records(tmp_path / "pictures").write(replace(record, state=file, job={"id": "7"}))
    [(found, is_mine)] = journal_in(tmp_path).claim([planned()], ENOUGH)
    assert is_mine and (found.id, found.state, found.job) == (record.id, file, {"id": "7"})


def test_a_journal_put_back_from_an_older_copy_pays_nothing_again(tmp_path):
    script = """
import os, shutil, sys
from dataclasses import replace
from pathlib import Path
import fake_provider
from test_journal import ACCEPTED, SENDING, claimed, journal_in
folder = Path(sys.argv[1])
journal = journal_in(folder)
record = claimed(journal)
shutil.copy(folder / "journal.sqlite3", folder / "copy")
for state in (SENDING, ACCEPTED):
    record = replace(record, state=state, job={"id": "7"})
    journal.save(record)
os.replace(folder / "copy", folder / "journal.sqlite3")
os._exit(9)
"""
    path = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
    assert subprocess.run([sys.executable, "-c", path + script, str(tmp_path)]).returncode == 9
    [(found, is_mine)] = journal_in(tmp_path).claim([planned()], ENOUGH)
    assert is_mine and (found.state, found.job) == (ACCEPTED, {"id": "7"})


def test_a_journal_deleted_between_the_reservation_and_the_payment_stops_the_payment(journal, tmp_path, monkeypatch):
    record = claimed(journal)
    write = Records.write

    def write_and_lose(records, record):
        write(records, record)
        (tmp_path / "journal.sqlite3").unlink()

    monkeypatch.setattr(Records, "write", write_and_lose)
    with pytest.raises((Unavailable, sqlite3.OperationalError)):
        journal.save(replace(record, state=SENDING))


def test_a_journal_replaced_in_the_last_moment_before_the_payment_stops_the_payment(journal, tmp_path, monkeypatch):
    record = claimed(journal)
    shutil.copy(tmp_path / "journal.sqlite3", tmp_path / "copy")
    write = Table.write

    def write_and_replace(table, record):
        write(table, record)
        os.replace(tmp_path / "copy", tmp_path / "journal.sqlite3")

    monkeypatch.setattr(Table, "write", write_and_replace)
    with pytest.raises(Unavailable, match="has lost what was set aside"):
        journal.save(replace(record, state=SENDING))


def test_a_reservation_that_the_journal_has_lost_is_never_sent(journal, tmp_path):
    record = claimed(journal)
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("DELETE FROM jobs")
    assert claimed(journal_in(tmp_path)).id != record.id
    with pytest.raises((Unavailable, sqlite3.OperationalError)):
        journal.save(replace(record, state=SENDING))


@pytest.mark.parametrize(
    "damage",
    [
        "request = CAST(x'ff' AS TEXT)",
        "request = '5'",
        "job = '[7]'",
        "pictures = '[5]'",
        "state = 'dome'",
        "created = 'never'",
        "reserved = x'00'",
    ],
)
def test_a_row_with_odd_values_hides_no_other_and_is_read_from_its_file(journal, tmp_path, damage):
    record, other = paid(journal, state=ACCEPTED, job={"id": "7"}), paid(journal, "b")
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute(f"UPDATE jobs SET {damage} WHERE id = ?", (record.id,))
    journal.close()
    journal = journal_in(tmp_path)
    assert {it.id for it in journal.pending()} == {record.id, other.id}
    [(found, is_mine)] = journal.claim([planned()], ENOUGH)
    assert is_mine and (found.id, found.state, found.job) == (record.id, ACCEPTED, {"id": "7"})
    assert journal.spent()[1] == 0.05


@pytest.mark.parametrize("content", ["5", '{"id": 1}', "{}", '{"id": "a", "hash": {}, "state": "done"}', "\0"])
def test_a_record_that_nobody_can_read_makes_no_trouble(journal, tmp_path, content):
    paid(journal)
    (tmp_path / "pictures" / f"{'0' * 32}.json").write_text(content)
    assert claimed(journal, "b").state == RESERVED


@pytest.mark.parametrize("days", [45, 400])
def test_nothing_is_forgotten_that_counts_for_a_limit_of_today(journal, monkeypatch, days):
    monkeypatch.setattr(journal_module, "KEEP_PICTURE_BYTES", 25)
    for name in "abcd":
        paid(journal, name, pictures=[f"{name}.png"], bytes=10, run="run")
    journal.set_collected("abcd")
    now = time.time() + days * 86400
    monkeypatch.setattr(journal_module.time, "time", lambda: now)
    journal.prune()
    assert journal.spent("run") == (pytest.approx(0.1), pytest.approx(0.1))


def test_what_was_paid_days_ago_and_is_fetched_today_was_not_paid_today(journal, tmp_path):
    paid(journal, state=ACCEPTED, created=time.time() - 3 * 86400, job={"id": "7"})
    journal.close()
    again = journal_in(tmp_path)
    assert again.claim([planned()], ENOUGH)[0][1] and again.spent()[1] == 0
