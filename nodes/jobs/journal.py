"""What was submitted and what came back: SQLite in the private folder, safe with several ComfyUI processes on it.

The journal is not the only witness: every paid job has a record beside its pictures too. What the journal lost, by damage
or by somebody's hand, is read back from there before anything is paid, and said once.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..providers.contract import Job, Unavailable
from . import process_locks
from .job_record import (
    CANCELLED,
    DELIVERED,
    DONE,
    FAILED,
    FIELDS,
    NOTHING_PAID,
    PAID,
    RESERVED,
    REUSABLE,
    SENDING,
    SPENT,
    TO_COLLECT,
    UNKNOWN,
    JobRecord,
)
from .limits import Limits
from .records import Records, private_folder

T = TypeVar("T")
Claim = tuple[JobRecord, bool]
logger = logging.getLogger("flux_krea")

ONE_DAY = 24 * 3600.0
KEEP_SECONDS = 30 * ONE_DAY  # of what is collected, or cost nothing
KEEP_PICTURE_BYTES = 2 * 2**30
PICTURE_ENDINGS = (".png", ".jpg", ".webp", ".avif", ".gif")
WAIT_FOR_LOCK = 10.0  # seconds that another program may hold the journal

COLUMNS = """id TEXT PRIMARY KEY, provider TEXT, endpoint TEXT, hash TEXT, state TEXT, request TEXT, purse TEXT,
 reserved REAL, owner TEXT, created REAL, sent REAL, updated REAL, job TEXT, delivery TEXT, pictures TEXT,
 bytes INTEGER, billed REAL, note TEXT, collected REAL, wish TEXT"""
OTHER_NAMES = {"budget_key": "purse", "seedless_key": "wish"}  # the columns' names are older than the fields'
COLUMN_OF = {name: OTHER_NAMES.get(name, name) for name in FIELDS}
SELECT = f"SELECT {','.join(COLUMN_OF.values())} FROM jobs"
AS_JSON = ("request", "job", "delivery", "pictures")


class Journal:
    def __init__(self, folder: Path, records: Records):
        self._folder = Path(folder)
        self._path = self._folder / "journal.sqlite3"
        self._records = records
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._owner: process_locks.Owner | None = None
        self._inode = 0
        self._working: set[str] = set()  # ids of the records that threads of this process work on
        self._reserved: dict[
            str, float
        ] = {}  # ids that this process set a price aside for → when, by a clock nobody sets
        self._notice = ""  # what happened to the journal, until it is said
        self._read_back = 0
        self._told = ("", "")  # what was said last, and to which run: all its nodes hear it

    # Claiming: who pays, and who only waits

    def claim(self, fresh: Iterable[JobRecord], limits: Limits, reuse: bool = True) -> list[Claim]:
        """For each record: the one that stands for the same payload already, else the record itself, with its price
        reserved; and whether it is the caller's to work on. If not, it is done, or somebody works on it who is alive.

        All in one transaction, so that parallel nodes and processes can neither pay twice nor overrun a limit. With
        `reuse` off every record is new. Raises OverBudget, and Unavailable where the journal had to be rebuilt and
        that was not said yet; nothing is reserved then.
        """
        fresh = list(fresh)
        self._restore_lost()
        return self._claimed(self._do(lambda db: self._claim(db, fresh, limits, reuse)))

    def claim_existing(self, name: str) -> Claim | None:
        """The newest record with this payload hash or id, for collecting; None where there is none. Pays nothing."""

        def own(db: sqlite3.Connection) -> Claim | None:
            self._release_dead_owners(db)
            record = _newest(db, name, self._records)
            return self._own(db, record) if record else None

        self._restore_lost()
        claim = self._do(own)
        return self._claimed([claim])[0] if claim else None

    def reopen(self, record: JobRecord) -> Claim:
        """A done record whose pictures are gone from the disk: delivered again, and the caller's if nobody was faster."""

        def own(db: sqlite3.Connection) -> Claim:
            current = _first(db, self._records, "id = ?", (record.id,)) or record
            if current.state == DONE:
                current.state, current.owner = DELIVERED, None
            return self._own(db, current)

        return self._claimed([self._do(own)])[0]

    def adopt(self, job: Job, record: JobRecord) -> bool:
        """Writes down that a job which a provider listed is this record's; False where it belongs to another."""
        text = json.dumps(job, default=dict)

        def take_over(db: sqlite3.Connection) -> bool:
            if _first(db, self._records, "job = ? AND id != ?", (text, record.id)):
                return False
            self._write(db, record)
            return True

        return self._do(take_over)

    # Writing and reading

    def save(self, record: JobRecord) -> None:
        """Writes the whole record, beside the pictures and into the journal. Raises OSError or sqlite3.Error."""
        record.updated = time.time()
        if record.owner is None:
            self._working.discard(record.id)
        if record.state not in NOTHING_PAID:
            self._records.write(record)
        self._do(lambda db: self._write(db, record))
        if record.state in NOTHING_PAID:
            self._records.remove(record.id)

    def release(self, record: JobRecord) -> None:
        """This process works on it no more. What cannot be written now is known in memory."""
        if record.id not in self._working:
            return
        self._working.discard(record.id)
        record.owner = None
        with suppress(sqlite3.Error, OSError):
            self.save(record)

    def record(self, record_id: str) -> JobRecord | None:
        return self._do(lambda db: _first(db, self._records, "id = ?", (record_id,)))

    def newest(self, name: str) -> JobRecord | None:
        """The last record with this payload hash, or the one with this id, unless it has failed."""

        def find(db: sqlite3.Connection) -> JobRecord | None:
            self._release_dead_owners(db)
            return _newest(db, name, self._records)

        return self._do(find)

    def pending(self) -> list[JobRecord]:
        """Paid, or perhaps paid, and not collected, oldest first. Those with an owner are under way."""
        self._restore_lost()
        return self._do(self._pending)

    def uncollected(self, seedless_key: str) -> list[JobRecord]:
        """Jobs of this request with any seed that are certainly paid, or on their way in this process, and that no other
        living process works on. A lost answer stands in nobody's way."""

        def find(db: sqlite3.Connection) -> list[JobRecord]:
            return [
                record
                for record in self._pending(db)
                if record.seedless_key.startswith(seedless_key)
                and (record.state in (*PAID, DONE) or record.id in self._working)
                and record.owner in (None, self._me().id)
                and not record.note
            ]

        return self._do(find)

    def set_collected(self, names: Iterable[str]) -> None:
        """The finished jobs with these payload hashes or ids. They are kept for a while all the same."""
        self._collect("(hash = ? OR id = ?) AND state = ? AND collected IS NULL", [(n, n, DONE) for n in names])

    def dismiss(self, record_id: str) -> bool:
        """Waits no more, whatever its state, and stands in the way of no new order; False while somebody works on it."""
        return self._collect("id = ? AND owner IS NULL", [(record_id,)]) == 1

    def spent(self, budget_key: str = "") -> tuple[float, float]:
        """US dollars paid or reserved: by the run with this key, and in the last 24 hours."""
        return self._do(lambda db: self._spent(db, budget_key))

    def prune(self) -> list[str]:
        """Forgets what is finished, collected and old, and the oldest collected pictures where they take too much room.
        Returns the pictures' file names. What nobody has collected, and what may still be had, stays."""

        def forget(db: sqlite3.Connection) -> list[JobRecord]:
            is_over = f"owner IS NULL AND ((state = '{DONE}' AND collected IS NOT NULL) OR state = '{FAILED}')"
            old = _all(db, self._records, f"{is_over} AND updated < ?", (time.time() - KEEP_SECONDS,))
            room, full = KEEP_PICTURE_BYTES, []
            for record in _all(db, self._records, "state = ? AND collected IS NOT NULL ORDER BY updated DESC", (DONE,)):
                room -= record.bytes
                if room < 0:
                    full.append(record)
            gone = {record.id: record for record in [*old, *full]}
            for record_id in gone:  # the file first: a row without one is written anew, a file without a row comes back
                self._records.remove(record_id)
            db.executemany("DELETE FROM jobs WHERE id = ?", [(record_id,) for record_id in gone])
            return list(gone.values())

        return [name for record in self._do(forget) for name in record.pictures]

    # Other processes

    def say_wanted(self, record_id: str) -> None:
        """This process waits for a job that another one works on."""
        self._me().say_wanted(record_id)

    def is_wanted(self, record_id: str) -> bool:
        """Whether another living process waits for it."""
        return self._me().is_wanted_by_others(record_id)

    def close(self) -> None:
        with self._lock:
            if self._db:
                self._db.close()
            if self._owner:
                self._owner.close()
            self._db = self._owner = None

    # Within one transaction

    def _claim(self, db: sqlite3.Connection, fresh: list[JobRecord], limits: Limits, reuse: bool) -> list[Claim]:
        self._release_dead_owners(db)
        found = [_same(db, record.hash, self._records) if reuse else None for record in fresh]
        new = [record for record, known in zip(fresh, found, strict=True) if known is None]
        if new:
            asked = sum(record.reserved or 0.0 for record in new)
            limits.check(asked, *self._spent(db, new[0].budget_key))
            self._say_what_happened(new[0].budget_key)
        return [self._own(db, known or record) for record, known in zip(fresh, found, strict=True)]

    def _own(self, db: sqlite3.Connection, record: JobRecord) -> Claim:
        is_worked_on = record.id in self._working if record.owner == self._me().id else record.owner is not None
        if is_worked_on or record.state == DONE:
            return record, False
        record.owner, record.updated, record.collected = self._me().id, time.time(), None
        self._write(db, record)
        return record, True

    def _claimed(self, claims: list[Claim]) -> list[Claim]:
        for record, is_mine in claims:
            if is_mine:
                self._working.add(record.id)
                self._reserved.setdefault(record.id, time.monotonic())
        return claims

    def _spent(self, db: sqlite3.Connection, budget_key: str) -> tuple[float, float]:
        """The last 24 hours count by the wall clock, and what this process paid also by one that nobody sets."""
        price = "COALESCE(billed, reserved, 0)"
        run = (
            db.execute(f"SELECT SUM({price}) FROM jobs WHERE purse = ?", (budget_key,)).fetchone()[0]
            if budget_key
            else 0
        )
        rows = db.execute(f"SELECT id, created, {price} FROM jobs WHERE {price} > 0").fetchall()
        since, began = time.time() - ONE_DAY, time.monotonic() - ONE_DAY
        today = sum(usd for key, created, usd in rows if created > since or self._reserved.get(key, began) > began)
        return run or 0.0, today

    def _pending(self, db: sqlite3.Connection) -> list[JobRecord]:
        self._release_dead_owners(db)
        states = (*TO_COLLECT, DONE)
        marks = ",".join("?" * len(states))
        return _all(db, self._records, f"state IN ({marks}) AND collected IS NULL ORDER BY created", states)

    def _collect(self, where: str, values: list[tuple[Any, ...]]) -> int:
        """Returns how many records changed; their files say it too."""

        def change(db: sqlite3.Connection) -> list[JobRecord]:
            records = [record for line in values for record in _all(db, self._records, where, line)]
            for record in records:
                record.collected = time.time()
                self._write(db, record)
            return records

        changed = self._do(change)
        with suppress(OSError):  # a record that is not told so waits once more, after the journal was lost
            for record in changed:
                self._records.write(record)
        return len(changed)

    def _write(self, db: sqlite3.Connection, record: JobRecord) -> None:
        values = [_column(getattr(record, name), name) for name in FIELDS]
        marks = ",".join("?" * len(FIELDS))
        db.execute(f"INSERT OR REPLACE INTO jobs ({','.join(COLUMN_OF.values())}) VALUES ({marks})", values)

    def _release_dead_owners(self, db: sqlite3.Connection) -> None:
        """What a killed process left: a reserved record never left, one in sending may have."""
        owners = [owner for (owner,) in db.execute("SELECT DISTINCT owner FROM jobs WHERE owner IS NOT NULL")]
        for owner in owners:
            if not self._me().is_alive(owner):
                db.execute(
                    "UPDATE jobs SET reserved = 0, state = ? WHERE owner = ? AND state = ?", (FAILED, owner, RESERVED)
                )
                db.execute("UPDATE jobs SET state = ? WHERE owner = ? AND state = ?", (UNKNOWN, owner, SENDING))
                db.execute("UPDATE jobs SET owner = NULL WHERE owner = ?", (owner,))

    def _me(self) -> process_locks.Owner:
        if self._owner is None:
            self._owner = process_locks.Owner(self._folder)
        return self._owner

    # The file, and what to do when it is not what it was

    def _restore_lost(self) -> None:
        """Reads back what lies beside the pictures and is not in the journal."""

        def restore(db: sqlite3.Connection) -> int:
            known = {record_id for (record_id,) in db.execute("SELECT id FROM jobs")}
            found = [self._records.read(record_id) for record_id in sorted(self._records.ids() - known)]
            for record in filter(None, found):
                self._write(db, record)
            return len(list(filter(None, found)))

        with self._lock:
            count = self._do(restore)
            if count:
                self._read_back += count
                self._notice = self._notice or "The journal of paid jobs had lost some of them."

    def _say_what_happened(self, budget_key: str) -> None:
        if self._notice:
            told = f"{self._notice} {self._read_back} were read back from the records beside the pictures."
            logger.warning("API Krea: %s", told)
            self._told = (told, budget_key or uuid.uuid4().hex)
            self._notice, self._read_back = "", 0
            budget_key = self._told[1]
        if self._told[1] and self._told[1] == budget_key:
            raise Unavailable(
                f"{self._told[0]} Nothing was sent or paid now. Look at “Paid and waiting” in the settings, then run again."
            )

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return self._transaction(work)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
            self._quarantine()
            self._restore_lost()
            return self._transaction(work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._db and self._was_replaced():
            self._db.close()
            self._db = None
        db = self._db = self._db or self._open()
        db.execute("BEGIN IMMEDIATE")
        try:
            result = work(db)
            db.execute("COMMIT")
            return result
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def _was_replaced(self) -> bool:
        """Another process found the file damaged and began a new one; what is written to the old one is lost."""
        try:
            return os.stat(self._path).st_ino != self._inode
        except FileNotFoundError:
            return True

    def _open(self) -> sqlite3.Connection:
        private_folder(self._folder)
        if not self._path.exists() and self._had_pictures():
            self._notice = "The journal of paid jobs is gone, and a new one begins."
        with os.fdopen(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)):
            pass  # prompts are in it: nobody else on the machine reads them
        db = sqlite3.connect(self._path, timeout=WAIT_FOR_LOCK, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"CREATE TABLE IF NOT EXISTS jobs ({COLUMNS})")
            db.execute("CREATE INDEX IF NOT EXISTS jobs_hash ON jobs (hash)")
            db.execute(f"{SELECT} LIMIT 1")
            self._write_missing_records(db)
        except BaseException:
            db.close()
            raise
        self._inode = os.stat(self._path).st_ino
        return db

    def _had_pictures(self) -> bool:
        with suppress(OSError):
            return any(path.suffix in PICTURE_ENDINGS for path in self._records.folder.iterdir())
        return False

    def _write_missing_records(self, db: sqlite3.Connection) -> None:
        """For the jobs of version 0.1.0, which kept none."""
        states = (SENDING, UNKNOWN, *PAID, DONE, SPENT, CANCELLED)
        marks = ",".join("?" * len(states))
        db.execute("BEGIN IMMEDIATE")  # while another process prunes, its files and rows differ
        known = self._records.ids()
        for record in _all(db, self._records, f"state IN ({marks})", states):
            if record.id not in known:
                self._records.write(record)
        db.execute("COMMIT")

    def _quarantine(self) -> None:
        """Starts a new journal beside the damaged one, unless another process has just done that. Raises OSError where
        the damaged one cannot be moved: without a journal on disk nothing is paid."""
        if self._db:
            self._db.close()
            self._db = None
        with process_locks.exclusive(self._folder / "journal.lock"):
            if self._is_sound():
                return
            aside = self._folder / f"journal.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}.sqlite3"
            os.replace(self._path, aside)
            for ending in ("-wal", "-shm"):
                with suppress(OSError):
                    os.replace(f"{self._path}{ending}", f"{aside}{ending}")
        self._notice = f"The journal of paid jobs was damaged and is kept as {aside.name}; a new one begins."
        logger.error("API Krea: %s", self._notice)

    def _is_sound(self) -> bool:
        try:
            db = self._open()
        except sqlite3.DatabaseError:
            return False
        try:
            return bool(db.execute("PRAGMA quick_check").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False
        finally:
            db.close()


def _same(db: sqlite3.Connection, payload_hash: str, records: Records) -> JobRecord | None:
    """What is done costs nothing more and comes first; what can only refuse comes last, and stands in nobody's way once
    a person has dismissed it."""
    is_dismissed = f"(state IN ('{UNKNOWN}', '{SPENT}') AND collected IS NOT NULL)"
    order = f"state != '{DONE}', state IN ('{UNKNOWN}', '{SPENT}'), created DESC"
    marks = ",".join("?" * len(REUSABLE))
    where = f"hash = ? AND state IN ({marks}) AND NOT {is_dismissed} ORDER BY {order}"
    return _first(db, records, where, (payload_hash, *REUSABLE))


def _newest(db: sqlite3.Connection, name: str, records: Records) -> JobRecord | None:
    marks = ",".join("?" * len(REUSABLE))
    where = f"(hash = ? OR id = ?) AND state IN ({marks}) ORDER BY created DESC"
    return _first(db, records, where, (name, name, *REUSABLE))


def _all(db: sqlite3.Connection, records: Records, where: str, values: Iterable[Any]) -> list[JobRecord]:
    lines = db.execute(f"{SELECT} WHERE {where}", tuple(values)).fetchall()
    return [_record(dict(zip(FIELDS, line, strict=True)), records) for line in lines]


def _first(db: sqlite3.Connection, records: Records, where: str, values: Iterable[Any]) -> JobRecord | None:
    return next(iter(_all(db, records, f"{where} LIMIT 1", values)), None)


def _record(values: dict[str, Any], records: Records) -> JobRecord:
    """A row as a record. One that nobody can read is read from its file, else it is a call with an unknown outcome."""
    try:
        return JobRecord(**{name: json.loads(value) if name in AS_JSON else value for name, value in values.items()})
    except (ValueError, TypeError):
        pass
    kept = records.read(str(values["id"]))
    if kept:
        return kept
    empty: dict[str, Any] = {"request": {}, "job": None, "delivery": None, "pictures": []}
    return JobRecord(**{**values, **empty, "state": UNKNOWN, "note": "its entry in the journal cannot be read"})


def _column(value: Any, name: str) -> Any:
    return json.dumps(value, default=dict) if name in AS_JSON else value


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Not locks, a full disk or missing rights: those pass, and the journal behind them is whole."""
    return type(error) is sqlite3.DatabaseError or "no such column" in str(error) or "no such table" in str(error)
