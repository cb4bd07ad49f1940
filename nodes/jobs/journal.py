"""What was submitted and what came back: SQLite in the private folder, safe with several ComfyUI processes on it.

The journal is not the only witness: every paid job has a record beside its pictures too. What the journal lost, by damage
or by somebody's hand, is read back from there before anything is paid, and said once.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..providers.contract import Job, Unavailable
from . import process_locks
from .job_record import (
    DELIVERED,
    DONE,
    FAILED,
    NOTHING_PAID,
    PAID,
    RESERVED,
    REUSABLE,
    SENDING,
    SPENT,
    STEPS,
    TO_COLLECT,
    UNKNOWN,
    JobRecord,
)
from .journal_file import JournalFile, Table
from .limits import Limits
from .records import Records

Claim = tuple[JobRecord, bool]

ONE_DAY = 24 * 3600.0
KEEP_SECONDS = 30 * ONE_DAY  # of what is collected, or cost nothing
KEEP_PICTURE_BYTES = 2 * 2**30
LOST_RESERVATION = "The journal of paid jobs has lost what was set aside for this. Nothing was sent or paid. Run again."
TRY_AGAIN = 1.0  # seconds between two tries to write down what ended while there was no room


class Journal:
    def __init__(self, folder: Path, records: Records):
        self._file = JournalFile(folder, records)
        self._records = records
        self._owner: process_locks.Owner | None = None
        self._making_owner = threading.Lock()
        self._lock = threading.RLock()  # what a row says of its owner and `_working` change together
        self._working: set[str] = set()  # ids of the records that threads of this process work on
        self._overdue: dict[
            str, JobRecord
        ] = {}  # how jobs ended that nobody works on any more, for want of room on disk
        # Ids that this process set a price aside for → when, by a clock that nobody sets.
        self._reserved: dict[str, float] = {}

    @property
    def folder(self) -> Path:
        return self._file.folder

    # Claiming: who pays, and who only waits

    def claim(self, fresh: Iterable[JobRecord], limits: Limits, reuse: bool = True) -> list[Claim]:
        """For each record: the one that stands for the same payload already, else the record itself, with its price
        reserved; and whether it is the caller's to work on. If not, it is done, or somebody works on it who is alive.

        All in one transaction, so that parallel nodes and processes can neither pay twice nor overrun a limit. With
        `reuse` off every record is new. Raises OverBudget, and Unavailable where the journal had to be rebuilt and
        that was not said yet; nothing is reserved then.
        """
        fresh = list(fresh)
        with self._lock:
            self._write_overdue()
            self._file.restore_lost()
            return self._claimed(self._file.transaction(lambda table: self._claim(table, fresh, limits, reuse)))

    def reserve(self, record: JobRecord, usd: float, limits: Limits) -> None:
        """A reserved record, of which the provider says that it costs more than was set aside. Raises OverBudget where a
        limit does not allow that; what was set aside stays so then."""

        def set_aside(table: Table) -> None:
            held = table.first("id = ? AND owner = ?", (record.id, self._me().id))
            if held is None:
                raise Unavailable(LOST_RESERVATION)
            others = (max(0.0, spent - (held.reserved or 0.0)) for spent in self._spent(table, record.budget_key))
            limits.check(usd, *others)
            table.write(replace(held, reserved=usd))

        with self._lock:
            self._file.transaction(set_aside)

    def claim_existing(self, name: str) -> Claim | None:
        """The newest record with this payload hash or id, for collecting; None where there is none. Pays nothing."""

        def own(table: Table) -> Claim | None:
            self._release_dead_owners(table)
            record = _newest(table, name)
            return self._own(table, record) if record else None

        with self._lock:
            self._write_overdue()
            self._file.restore_lost()
            claim = self._file.transaction(own)
            return self._claimed([claim])[0] if claim else None

    def reopen(self, record: JobRecord) -> Claim:
        """A done record whose pictures are gone from the disk: delivered again, and the caller's if nobody was faster."""

        def own(table: Table) -> Claim:
            current = table.first("id = ?", (record.id,)) or record
            if current.state == DONE:
                current.state, current.owner = DELIVERED, None
            return self._own(table, current)

        with self._lock:
            return self._claimed([self._file.transaction(own)])[0]

    def adopt(self, job: Job, record: JobRecord) -> bool:
        """Writes down that a job which a provider listed is this record's; False where it belongs to another. A list
        may tell less of a job than its own answer did."""

        def take_over(table: Table) -> bool:
            others = table.all("provider = ? AND job != 'null' AND id != ?", (record.provider, record.id))
            if any(job.items() <= (other.job or {}).items() for other in others):
                return False
            table.write(record)
            return True

        return self._file.transaction(take_over)

    # Writing and reading

    def save(self, record: JobRecord) -> None:
        """Writes the whole record, beside the pictures and into the journal. Raises OSError or sqlite3.Error."""
        record.updated = time.time()
        if record.state not in (*NOTHING_PAID, SENDING):
            self._records.write(record)
        with self._lock:
            self._file.transaction(lambda table: self._save(table, record))
            if record.state == SENDING and self._file.was_replaced():
                raise Unavailable(LOST_RESERVATION)
            if record.owner is None:
                self._working.discard(record.id)
        if record.state in NOTHING_PAID:
            self._records.remove(record.id)

    def release(self, record: JobRecord) -> None:
        """This process works on it no more."""
        if record.id in self._working:
            record.owner = None
            self.save_when_possible(record)

    def save_when_possible(self, record: JobRecord) -> None:
        """For a record that nobody works on any more. What cannot be written now is known in memory until it can."""
        with self._lock:
            try:
                self.save(record)
            except (sqlite3.Error, OSError):
                self._working.discard(record.id)
                self._overdue[record.id] = record
                threading.Thread(target=self._keep_trying, name="krea-journal", daemon=True).start()

    def record(self, record_id: str) -> JobRecord | None:
        return self._file.transaction(lambda table: table.first("id = ?", (record_id,)))

    def newest(self, name: str) -> JobRecord | None:
        """The last record with this payload hash, or the one with this id, unless it has failed."""

        def find(table: Table) -> JobRecord | None:
            self._release_dead_owners(table)
            return _newest(table, name)

        return self._file.transaction(find)

    def pending(self) -> list[JobRecord]:
        """Paid, or perhaps paid, and not collected, oldest first. Those with an owner are under way."""
        self._file.restore_lost()
        return self._file.transaction(self._pending)

    def uncollected(self, seedless_key: str) -> list[JobRecord]:
        """Jobs of this request with any seed that are certainly paid, or on their way in this process, and that no other
        living process works on. A lost answer stands in nobody's way."""

        def find(table: Table) -> list[JobRecord]:
            return [
                record
                for record in self._pending(table)
                if record.seedless_key.startswith(seedless_key)
                and (record.state in (*PAID, DONE) or record.id in self._working)
                and record.owner in (None, self._me().id)
                and not record.note
            ]

        return self._file.transaction(find)

    def set_collected(self, names: Iterable[str]) -> None:
        """The finished jobs with these payload hashes or ids. They are kept for a while all the same."""
        self._collect("(hash = ? OR id = ?) AND state = ? AND collected IS NULL", [(n, n, DONE) for n in names])

    def dismiss(self, record_id: str) -> bool:
        """Waits no more, whatever its state, and stands in the way of no new order; False while somebody works on it."""
        return self._collect("id = ? AND owner IS NULL", [(record_id,)]) == 1

    def spent(self, budget_key: str = "") -> tuple[float, float]:
        """US dollars paid or reserved: by the run with this key, and in the last 24 hours."""
        return self._file.transaction(lambda table: self._spent(table, budget_key))

    def prune(self) -> list[str]:
        """Forgets what is finished, collected and old, and the oldest collected pictures where they take too much room.
        Returns the pictures' file names. What nobody has collected, and what may still be had, stays."""

        def forget(table: Table) -> list[JobRecord]:
            is_over = f"owner IS NULL AND ((state = '{DONE}' AND collected IS NOT NULL) OR state = '{FAILED}')"
            old = table.all(f"{is_over} AND updated < ?", (time.time() - KEEP_SECONDS,))
            room, full = KEEP_PICTURE_BYTES, []
            for record in table.all("state = ? AND collected IS NOT NULL ORDER BY updated DESC", (DONE,)):
                room -= record.bytes
                if room < 0:
                    full.append(record)
            gone = {record.id: record for record in [*old, *full] if not self._is_of_today(record.id, record.created)}
            for record_id in gone:  # the file first: a row without one is written anew, a file without a row comes back
                self._records.remove(record_id)
            table.db.executemany("DELETE FROM jobs WHERE id = ?", [(record_id,) for record_id in gone])
            return list(gone.values())

        return [name for record in self._file.transaction(forget) for name in record.pictures]

    # Other processes

    def say_wanted(self, record_id: str) -> None:
        """This process waits for a job that another one works on."""
        self._me().say_wanted(record_id)

    def is_wanted(self, record_id: str) -> bool:
        """Whether another living process waits for it."""
        return self._me().is_wanted_by_others(record_id)

    def close(self) -> None:
        self._file.close()
        if self._owner:
            self._owner.close()
            self._owner = None

    def _write_overdue(self) -> None:
        for record in tuple(self._overdue.values()):
            self.save(record)
            del self._overdue[record.id]

    def _keep_trying(self) -> None:
        """Other processes wait for what this one works on no more."""
        while self._overdue:
            time.sleep(TRY_AGAIN)
            with self._lock, suppress(sqlite3.Error, OSError):
                self._write_overdue()

    # Within one transaction

    def _save(self, table: Table, record: JobRecord) -> None:
        if record.state == SENDING:  # the last step before money leaves
            if not table.first("id = ? AND owner = ?", (record.id, self._me().id)):
                raise Unavailable(LOST_RESERVATION)
            self._records.write(record)
        table.write(record)

    def _claim(self, table: Table, fresh: list[JobRecord], limits: Limits, reuse: bool) -> list[Claim]:
        self._release_dead_owners(table)
        found = [_same(table, record.hash) if reuse else None for record in fresh]
        new = [record for record, known in zip(fresh, found, strict=True) if known is None]
        if new:
            asked = sum(record.reserved or 0.0 for record in new)
            limits.check(asked, *self._spent(table, new[0].budget_key))
            self._file.say_what_happened(new[0].budget_key)
        return [self._own(table, known or record) for record, known in zip(fresh, found, strict=True)]

    def _own(self, table: Table, record: JobRecord) -> Claim:
        is_worked_on = record.id in self._working if record.owner == self._me().id else record.owner is not None
        if is_worked_on or record.state == DONE:
            return record, False
        record.owner, record.updated, record.collected = self._me().id, time.time(), None
        table.write(record)
        return record, True

    def _claimed(self, claims: list[Claim]) -> list[Claim]:
        for record, is_mine in claims:
            if is_mine:
                self._working.add(record.id)
            if is_mine and record.state == RESERVED:
                self._reserved.setdefault(record.id, time.monotonic())
        return claims

    def _spent(self, table: Table, budget_key: str) -> tuple[float, float]:
        price = "COALESCE(NULLIF(billed, 0), reserved, 0)"  # a bill of nothing is one that is not told yet
        run = (
            table.db.execute(f"SELECT SUM({price}) FROM jobs WHERE purse = ?", (budget_key,)).fetchone()[0]
            if budget_key
            else 0
        )
        rows = table.db.execute(f"SELECT id, created, {price} FROM jobs WHERE {price} > 0").fetchall()
        return run or 0.0, sum(usd for record_id, created, usd in rows if self._is_of_today(record_id, created))

    def _is_of_today(self, record_id: str, created: float) -> bool:
        """The last 24 hours count by the wall clock, and what this process paid also by one that nobody sets."""
        began = time.monotonic() - ONE_DAY
        return created > time.time() - ONE_DAY or self._reserved.get(record_id, began) > began

    def _pending(self, table: Table) -> list[JobRecord]:
        self._release_dead_owners(table)
        states = (*TO_COLLECT, DONE)
        marks = ",".join("?" * len(states))
        return table.all(f"state IN ({marks}) AND collected IS NULL ORDER BY created", states)

    def _collect(self, where: str, values: list[tuple[Any, ...]]) -> int:
        """Returns how many records changed; their files say it too."""

        def change(table: Table) -> list[JobRecord]:
            records = [record for line in values for record in table.all(where, line)]
            for record in records:
                record.collected = time.time()
                table.write(record)
            return records

        changed = self._file.transaction(change)
        with suppress(OSError):  # a record that is not told so waits once more, after the journal was lost
            for record in changed:
                self._records.write(record)
        return len(changed)

    def _release_dead_owners(self, table: Table) -> None:
        owners = [owner for (owner,) in table.db.execute("SELECT DISTINCT owner FROM jobs WHERE owner IS NOT NULL")]
        for owner in owners:
            if not self._me().is_alive(owner):
                for record in table.all("owner = ?", (owner,)):
                    table.write(_left_by_the_dead(record, self._records.read(record.id)))

    def _me(self) -> process_locks.Owner:
        with self._making_owner:
            self._owner = self._owner or process_locks.Owner(self._file.folder)
            return self._owner


def _left_by_the_dead(row: JobRecord, kept: JobRecord | None) -> JobRecord:
    """A reserved record never left, one in sending may have. Its file is written before the row, and may know more: also
    where the journal has lost its last words."""
    record = kept if kept and STEPS.index(kept.state) > STEPS.index(row.state) else row
    if record.state == RESERVED:
        return replace(record, owner=None, state=FAILED, reserved=0.0)
    return replace(record, owner=None, state=UNKNOWN if record.state == SENDING else record.state)


def _same(table: Table, payload_hash: str) -> JobRecord | None:
    """What is done costs nothing more and comes first; what can only refuse comes last, and stands in nobody's way once
    a person has dismissed it."""
    is_dismissed = f"(state IN ('{UNKNOWN}', '{SPENT}') AND collected IS NOT NULL)"
    order = f"state != '{DONE}', state IN ('{UNKNOWN}', '{SPENT}'), created DESC"
    marks = ",".join("?" * len(REUSABLE))
    where = f"hash = ? AND state IN ({marks}) AND NOT {is_dismissed} ORDER BY {order}"
    return table.first(where, (payload_hash, *REUSABLE))


def _newest(table: Table, name: str) -> JobRecord | None:
    marks = ",".join("?" * len(REUSABLE))
    order = f"state IN ('{UNKNOWN}', '{SPENT}'), created DESC"  # a later order that was lost hides no picture
    where = f"(hash = ? OR id = ?) AND state IN ({marks}) ORDER BY {order}"
    return table.first(where, (name, name, *REUSABLE))
