"""The journal's file: opened, read and written in transactions, and made anew from the records where it was lost."""

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

from ..providers.contract import Unavailable
from . import process_locks
from .job_record import CANCELLED, DONE, FIELDS, PAID, SENDING, SPENT, STEPS, UNKNOWN, JobRecord, checked
from .records import Records, private_folder

T = TypeVar("T")
logger = logging.getLogger("flux_krea")

PICTURE_ENDINGS = (".png", ".jpg", ".webp", ".avif", ".gif")
WAIT_FOR_LOCK = 10.0  # seconds that another program may hold the journal

COLUMNS = """id TEXT PRIMARY KEY, provider TEXT, endpoint TEXT, hash TEXT, state TEXT, request TEXT, purse TEXT,
 reserved REAL, owner TEXT, created REAL, sent REAL, updated REAL, job TEXT, delivery TEXT, pictures TEXT,
 bytes INTEGER, billed REAL, note TEXT, collected REAL, wish TEXT"""
NEWER_COLUMNS = {"sent_uptime": "REAL"}  # than version 0.1.0
OTHER_NAMES = {"budget_key": "purse", "seedless_key": "wish"}  # the columns' names are older than the fields'
COLUMN_OF = {name: OTHER_NAMES.get(name, name) for name in FIELDS}
SELECT = f"SELECT {','.join(COLUMN_OF.values())} FROM jobs"
AS_JSON = ("request", "job", "delivery", "pictures")


class Table:
    """The jobs in the file, within one transaction."""

    def __init__(self, db: sqlite3.Connection, records: Records):
        self.db = db
        self._records = records

    def all(self, where: str, values: Iterable[Any]) -> list[JobRecord]:
        lines = self.db.execute(f"{SELECT} WHERE {where}", tuple(values)).fetchall()
        return [self._record(dict(zip(FIELDS, line, strict=True))) for line in lines]

    def first(self, where: str, values: Iterable[Any]) -> JobRecord | None:
        return next(iter(self.all(f"{where} LIMIT 1", values)), None)

    def write(self, record: JobRecord) -> None:
        values = [getattr(record, name) for name in FIELDS]
        values = [
            json.dumps(value, default=dict) if name in AS_JSON else value
            for name, value in zip(FIELDS, values, strict=True)
        ]
        marks = ",".join("?" * len(FIELDS))
        self.db.execute(f"INSERT OR REPLACE INTO jobs ({','.join(COLUMN_OF.values())}) VALUES ({marks})", values)

    def _record(self, values: dict[str, Any]) -> JobRecord:
        """A row as a record. One that nobody can read is read from its file, else it is a call with an unknown outcome."""
        try:
            read = {name: json.loads(value) if name in AS_JSON else value for name, value in values.items()}
            return checked(JobRecord(**read))
        except (ValueError, TypeError):
            pass
        empty: dict[str, Any] = {"request": {}, "job": None, "delivery": None, "pictures": []}
        lost = {**values, **empty, "state": UNKNOWN, "note": "its entry in the journal cannot be read"}
        return self._records.read(str(values["id"])) or JobRecord(**lost)


class JournalFile:
    """One connection to journal.sqlite3, shared by the threads of this process."""

    def __init__(self, folder: Path, records: Records):
        self.folder = Path(folder)
        self._path = self.folder / "journal.sqlite3"
        self._records = records
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._notice = ""  # what happened to the file, until it is said
        self._read_back = 0
        self._told = ("", "")  # what was said last, and to which run: all its nodes hear it

    def transaction(self, work: Callable[[Table], T]) -> T:
        """`work` with nobody between: all of it is on disk when this returns, or nothing. A damaged file is made anew."""
        with self._lock:
            try:
                return self._attempt(work)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
            self._quarantine()
            self.restore_lost()
            return self._attempt(work)

    def restore_lost(self) -> None:
        """Reads back what lies beside the pictures and is not in the journal."""

        def restore(table: Table) -> int:
            marks = ",".join("?" * len(STEPS))
            known = {
                record_id for (record_id,) in table.db.execute(f"SELECT id FROM jobs WHERE state IN ({marks})", STEPS)
            }
            found = [self._records.read(record_id) for record_id in sorted(self._records.ids() - known)]
            for record in filter(None, found):
                table.write(record)
            return len(list(filter(None, found)))

        with self._lock:
            count = self.transaction(restore)
            if count:
                self._read_back += count
                self._notice = self._notice or "The journal of paid jobs had lost some of them."

    def say_what_happened(self, budget_key: str) -> None:
        """Raises Unavailable where the journal had to be rebuilt and that was not said yet, to every node of one run."""
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

    def close(self) -> None:
        with self._lock:
            if self._db:
                self._db.close()
                self._db = None

    def _attempt(self, work: Callable[[Table], T]) -> T:
        db = self._begin()
        try:
            result = work(Table(db, self._records))
            db.execute("COMMIT")
            return result
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def _begin(self) -> sqlite3.Connection:
        """The connection, with the file locked that lies at the path now."""
        while True:
            self._db = self._db or self._open()
            self._db.execute("BEGIN IMMEDIATE")
            if not self.was_replaced():
                return self._db
            self._db.close()
            self._db = None

    def was_replaced(self) -> bool:
        """Somebody deleted the file, or found it damaged and began a new one; what is written to the old one is lost."""
        try:
            return os.stat(self._path).st_ino != self._inode
        except FileNotFoundError:
            return True

    def _open(self) -> sqlite3.Connection:
        private_folder(self.folder)
        if not self._path.exists() and self._had_pictures():
            self._notice = "The journal of paid jobs is gone, and a new one begins."
        with os.fdopen(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)) as file:
            inode = os.fstat(file.fileno()).st_ino  # prompts are in it: nobody else on the machine reads them
        db = sqlite3.connect(self._path, timeout=WAIT_FOR_LOCK, isolation_level=None, check_same_thread=False)
        try:
            db.text_factory = lambda text: text.decode("utf-8", "replace")  # one damaged row hides no other
            # Not WAL: its two files beside this one outlive it where somebody deletes it, and split those who work with it.
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA synchronous=FULL")
            _make_tables(db)
            db.execute(f"{SELECT} LIMIT 1")
            self._write_missing_records(db)
        except BaseException:
            db.close()
            raise
        self._inode = inode
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
        for record in Table(db, self._records).all(f"state IN ({marks})", states):
            if record.id not in known:
                self._records.write(record)
        db.execute("COMMIT")

    def _quarantine(self) -> None:
        """Starts a new journal beside the damaged one, unless another process has just done that. Raises OSError where
        the damaged one cannot be moved: without a journal on disk nothing is paid."""
        if self._db:
            self._db.close()
            self._db = None
        with process_locks.exclusive(self.folder / "journal.lock"):
            if self._is_sound():
                return
            aside = self.folder / f"journal.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}.sqlite3"
            os.replace(self._path, aside)
            for ending in ("-journal", "-wal", "-shm"):
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


def _make_tables(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")  # another process may be about to do the same
    db.execute(f"CREATE TABLE IF NOT EXISTS jobs ({COLUMNS})")
    there = {column[1] for column in db.execute("PRAGMA table_info(jobs)")}
    for name, kind in NEWER_COLUMNS.items():
        if name not in there:
            db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
    db.execute("CREATE INDEX IF NOT EXISTS jobs_hash ON jobs (hash)")
    db.execute("COMMIT")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Not locks, a full disk or missing rights: those pass, and the journal behind them is whole."""
    return type(error) is sqlite3.DatabaseError or "no such column" in str(error) or "no such table" in str(error)
