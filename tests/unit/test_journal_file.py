"""The journal's file goes missing, is emptied or damaged: what is told, to whom, how often; what is put aside."""

import sqlite3

import pytest
from flux_krea.nodes.jobs.job_record import ACCEPTED, DONE
from flux_krea.nodes.jobs.records import Records
from flux_krea.nodes.providers.contract import Unavailable
from test_journal import ENOUGH, claimed, journal_in, paid, planned


@pytest.fixture
def journal(tmp_path):
    journal = journal_in(tmp_path)
    yield journal
    journal.close()


def lose(tmp_path, how):
    path = tmp_path / "journal.sqlite3"
    if how == "deleted":
        path.unlink()
        return
    with sqlite3.connect(path) as db:
        db.execute({"emptied": "DELETE FROM jobs", "dropped": "DROP TABLE jobs"}[how])
    db.close()


@pytest.mark.parametrize("how", ["deleted", "emptied", "dropped"])
def test_a_journal_lost_while_it_is_in_use_is_rebuilt_and_each_loss_is_told_once_with_its_own_number(
    journal, tmp_path, how
):
    done = paid(journal, "done")
    for count in (1, 2):
        lose(tmp_path, how)
        with pytest.raises(Unavailable, match=f" {count} were read back"):
            journal.claim([planned(f"new {count}")], ENOUGH)
        assert journal.claim([planned("done")], ENOUGH) == [(done, False)]
        paid(journal, f"new {count}", state=ACCEPTED)  # it is told once to runs without a name


def test_a_journal_that_is_gone_with_all_its_records_is_told_where_pictures_are_left(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "notes.txt").touch()
    assert claimed(journal_in(tmp_path / "elsewhere"))
    (folder / "a.png").touch()
    journal = journal_in(tmp_path)
    with pytest.raises(Unavailable, match="is gone, and a new one begins. 0 were read back"):
        journal.claim([planned()], ENOUGH)
    assert journal.claim([planned()], ENOUGH)[0][1]


def test_files_that_are_no_pictures_tell_of_no_lost_journal(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "notes.txt").touch()
    assert claimed(journal_in(tmp_path))


def test_a_journal_that_another_process_has_just_made_anew_is_not_put_aside(journal, tmp_path):
    """Two processes found it damaged; the second looks again once it has the lock."""
    done = paid(journal)
    journal._file._quarantine()
    assert journal.claim([planned()], ENOUGH) == [(done, False)] and not list(tmp_path.glob("journal.corrupt-*"))
    assert claimed(journal, "new")  # and nothing is told


def test_a_row_that_nobody_can_read_and_without_a_record_is_a_call_with_an_unknown_outcome_that_says_why(
    journal, tmp_path
):
    record = paid(journal, state=DONE, delivery={"pictures": ["x"]}, pictures=["a.png"], job={"id": "7"})
    Records(tmp_path / "pictures").remove(record.id)
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("UPDATE jobs SET state = 'dome'")
    db.close()
    read = journal.record(record.id)
    assert (read.state, read.note) == ("unknown", "its entry in the journal cannot be read")
    assert (read.request, read.job, read.delivery, read.pictures) == ({}, None, None, [])
    assert (read.hash, read.reserved, read.provider) == (record.hash, record.reserved, record.provider)
