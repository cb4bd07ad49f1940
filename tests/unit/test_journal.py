import sqlite3
import stat
import threading
import time
from dataclasses import replace

import pytest
from flux_krea.nodes.jobs import journal as journal_module
from flux_krea.nodes.jobs.journal import (
    ACCEPTED,
    CANCELLED,
    DELIVERED,
    DONE,
    FAILED,
    RESERVED,
    SENDING,
    UNKNOWN,
    Journal,
    Row,
)
from flux_krea.nodes.providers.contract import OverBudget


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def order(payload="a", purse="", usd=0.025):
    return Row("fake", "fake/krea", payload, {"prompt": "a lighthouse"}, purse, usd)


def left_by_the_dead(tmp_path, state, **values):
    """A row as a killed process leaves it: its owner's lock is gone, its owner's name is not."""
    journal = Journal(tmp_path)
    [(row, _)] = journal.claim([order()], None)
    journal.save(replace(row, state=state, owner="999-dead", **values))
    journal.close()


def test_a_row_comes_back_as_it_was_saved(journal, tmp_path):
    [(row, is_mine)] = journal.claim([order()], None)
    assert is_mine and row.state == RESERVED
    row = replace(row, state=DONE, job={"id": "7"}, delivery={"pictures": ["x"]}, pictures=["a.png"], billed=0.05)
    journal.save(row)
    assert Journal(tmp_path).row(row.id) == row


def test_nobody_else_on_the_machine_reads_the_prompts(journal, tmp_path):
    journal.claim([order()], None)
    assert stat.S_IMODE((tmp_path / "journal.sqlite3").stat().st_mode) == 0o600


def test_what_a_living_process_works_on_is_not_taken(journal, tmp_path):
    [(row, _)] = journal.claim([order()], None)
    [(seen, is_mine)] = Journal(tmp_path).claim([order()], None)
    assert (seen.id, is_mine) == (row.id, False)


@pytest.mark.parametrize(
    ("left", "found"), [(SENDING, UNKNOWN), (UNKNOWN, UNKNOWN), (ACCEPTED, ACCEPTED), (DELIVERED, DELIVERED)]
)
def test_what_a_dead_process_left_is_taken_over(journal, tmp_path, left, found):
    left_by_the_dead(tmp_path, left, job={"id": "7"})
    assert [row.state for row in journal.pending()] == [found]
    [(row, is_mine)] = journal.claim([order()], None)
    assert (row.state, row.job, is_mine) == (found, {"id": "7"}, True)


def test_a_reservation_of_a_dead_process_costs_nothing(journal, tmp_path):
    left_by_the_dead(tmp_path, RESERVED, purse="graph")
    [(row, is_mine)] = journal.claim([order(purse="graph")], 0.025)
    assert is_mine and row.state == RESERVED and journal.pending() == []


@pytest.mark.parametrize("state", [FAILED, CANCELLED])
def test_what_is_over_is_not_found_again(journal, state):
    [(row, _)] = journal.claim([order()], None)
    journal.save(replace(row, state=state, owner=None))
    [(again, is_mine)] = journal.claim([order()], None)
    assert is_mine and again.id != row.id


def test_without_reuse_every_row_is_new(journal):
    [(row, _)] = journal.claim([order()], None)
    [(again, is_mine)] = journal.claim([order()], None, reuse=False)
    assert is_mine and again.id != row.id


def test_the_budget_holds_between_processes_and_threads(tmp_path):
    outcomes, start = [], threading.Barrier(8)
    journals = [Journal(tmp_path) for _ in range(8)]

    def reserve(index):
        start.wait()
        try:
            journals[index].claim([order(str(index), "graph")], 0.05)
            outcomes.append("reserved")
        except OverBudget:
            outcomes.append("refused")

    threads = [threading.Thread(target=reserve, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 6 + ["reserved"] * 2


def test_all_of_one_request_is_reserved_or_nothing(journal):
    with pytest.raises(OverBudget, match=r"\$0\.075"):
        journal.claim([order(name, "graph") for name in "abc"], 0.05)
    assert journal.newest("a") is None


def test_what_was_billed_counts_and_what_was_not_spent_does_not(journal):
    [(row, _)] = journal.claim([order("a", "graph")], 0.05)
    journal.save(replace(row, state=DONE, billed=0.05, owner=None))
    with pytest.raises(OverBudget, match=r"\$0\.050 already"):
        journal.claim([order("b", "graph")], 0.05)
    journal.save(replace(row, state=FAILED, reserved=0.0, billed=None, owner=None))
    assert journal.claim([order("b", "graph")], 0.05)[0][1]


def test_paying_the_same_again_later_does_not_use_up_the_budget(journal):
    for _ in range(5):
        [(row, _)] = journal.claim([order("a", "graph")], 0.03, reuse=False)
        journal.save(replace(row, state=DONE, owner=None))
    journal.claim([order("a", "graph")], 0.03, reuse=False)
    with pytest.raises(OverBudget):
        journal.claim([order("a", "graph")], 0.03, reuse=False)  # the one before is still under way


def test_a_price_nobody_knows_is_above_every_limit(journal):
    with pytest.raises(OverBudget, match="Nobody knows"):
        journal.claim([order(usd=None)], 100.0)
    assert journal.claim([order(usd=None)], None)[0][1]


@pytest.mark.parametrize("damage", [b"not a database at all, " * 50, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_journal_is_set_aside_and_never_stops_a_run(tmp_path, caplog, damage):
    (tmp_path / "journal.sqlite3").write_bytes(damage)
    [(row, is_mine)] = Journal(tmp_path).claim([order()], None)
    assert is_mine
    [aside] = tmp_path.glob("journal.corrupt-*.sqlite3")
    assert aside.read_bytes() == damage and aside.name in caplog.text
    assert Journal(tmp_path).row(row.id) == row


def test_a_journal_damaged_during_the_run_keeps_what_is_under_way(journal, tmp_path):
    for index in range(50):
        journal.claim([order(str(index))], None)
    [(row, _)] = journal.claim([order("mine")], None)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = tmp_path / "journal.sqlite3"
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    other = Journal(tmp_path)
    other.claim([order("theirs")], None)
    journal.save(replace(row, state=ACCEPTED, job={"id": "7"}))
    assert other.row(row.id).job == {"id": "7"}
    assert len(list(tmp_path.glob("journal.corrupt-*.sqlite3"))) == 1


def test_a_foreign_database_is_set_aside_too(tmp_path):
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("CREATE TABLE jobs (name TEXT)")
    assert Journal(tmp_path).claim([order()], None)[0][1]


def test_old_rows_and_pictures_beyond_the_room_are_forgotten(journal, monkeypatch):
    monkeypatch.setattr(journal_module, "KEEP_PICTURE_BYTES", 25)
    for name in "abc":
        [(row, _)] = journal.claim([order(name)], None)
        journal.save(replace(row, state=DONE, pictures=[f"{name}.png"], bytes=10, owner=None))
    assert journal.prune() == []  # nobody has collected them
    journal.set_collected("abc")
    assert journal.prune() == ["a.png"]
    monkeypatch.setattr(journal_module, "KEEP_SECONDS", -1.0)
    journal.claim([order("under way")], None)
    assert sorted(journal.prune()) == ["b.png", "c.png"]
    assert journal.newest("under way") is not None


def test_an_older_journal_is_brought_up_to_date_and_loses_nothing(tmp_path):
    journal = Journal(tmp_path)
    rows = [journal.claim([order(name)], None)[0][0] for name in "ab"]
    journal.save(replace(rows[0], state=ACCEPTED, job={"id": "7"}, owner=None))
    journal.save(replace(rows[1], state=DONE, pictures=["b.png"], owner=None))
    journal.close()
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("ALTER TABLE jobs DROP COLUMN collected")
        db.execute("ALTER TABLE jobs DROP COLUMN wish")
    journal = Journal(tmp_path)
    assert [row.job for row in journal.pending()] == [{"id": "7"}]
    assert journal.newest("b").pictures == ["b.png"] and not list(tmp_path.glob("journal.corrupt-*"))


def test_a_finished_job_waits_until_it_is_collected(journal):
    rows = [journal.claim([order(name)], None)[0][0] for name in "ab"]
    journal.set_collected("ab")  # both are still under way
    for row in rows:
        journal.save(replace(row, state=DONE, owner=None))
    assert [row.waits_as for row in journal.pending()] == ["ready", "ready"]
    journal.set_collected(["a", rows[1].id])
    assert journal.pending() == []


def test_what_was_put_aside_waits_again_once_somebody_works_on_it(journal):
    [(row, _)] = journal.claim([order()], None)
    journal.save(replace(row, state=ACCEPTED))
    assert not journal.put_aside(row.id) and [row.waits_as for row in journal.pending()] == ["under way"]
    journal.save(replace(row, state=UNKNOWN, owner=None))
    assert [row.waits_as for row in journal.pending()] == ["answer lost"]
    assert journal.put_aside(row.id) and journal.pending() == []
    [(again, is_mine)] = journal.claim([order()], None)
    assert (again.id, is_mine) == (row.id, True) and journal.pending() == [again]


def test_the_state_is_on_disk_before_the_next_step(journal, tmp_path):
    [(row, _)] = journal.claim([order()], None)
    journal.save(replace(row, state=SENDING, sent=time.time()))
    with sqlite3.connect(tmp_path / "journal.sqlite3") as reader:
        assert reader.execute("SELECT state FROM jobs").fetchall() == [(SENDING,)]
