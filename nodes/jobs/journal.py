"""What was submitted and what came back: SQLite in the private folder, safe with several ComfyUI processes on it.

    reserved ──► sending ──► accepted ──► delivered ──► done
        │           └──► unknown ──┘
        └──────────────► failed, spent, cancelled

`reserved`: the price is set aside, nothing has left. `sending`: the paid call may have left. `accepted`: the provider
holds the job. `delivered`: the pictures' addresses are known. `done`: the pictures are on disk. `unknown`: the paid
call left and its answer was lost. `failed`: no picture and nothing paid. `spent`: no picture, and paid or perhaps paid:
what was refused for its content would be again, for money again. Each state is on disk before the step that it announces.

A job is collected once a graph that got its pictures has ended well, or a person has put it aside.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ..providers.contract import OverBudget
from . import process_locks

T = TypeVar("T")
logger = logging.getLogger("flux_krea")

RESERVED, SENDING, ACCEPTED, DELIVERED, DONE = "reserved", "sending", "accepted", "delivered", "done"
UNKNOWN, FAILED, SPENT, CANCELLED = "unknown", "failed", "spent", "cancelled"
TO_COLLECT = (SENDING, UNKNOWN, ACCEPTED, DELIVERED)  # money is, or may be, spent and no picture is here
TO_FIND = (RESERVED, *TO_COLLECT, DONE, SPENT)

KEEP_SECONDS = 30 * 24 * 3600.0  # of what is collected or left no picture
KEEP_PICTURE_BYTES = 2 * 2**30
CENT_DUST = 1e-9  # of adding floats

COLUMNS = """id TEXT PRIMARY KEY, provider TEXT, endpoint TEXT, hash TEXT, state TEXT, request TEXT, purse TEXT,
 reserved REAL, owner TEXT, created REAL, sent REAL, updated REAL, job TEXT, delivery TEXT, pictures TEXT,
 bytes INTEGER, billed REAL, note TEXT, collected REAL, wish TEXT"""
AS_JSON = ("request", "job", "delivery", "pictures")


@dataclass
class Row:
    """One paid call, or one that is about to be. `owner` is the process that works on it; times in seconds since 1970;
    `pictures` are file names in the pictures folder; `reserved` and `billed` in US dollars; `wish` is what was asked
    but for its seed, and the seed, where that was drawn at random."""

    provider: str
    endpoint: str
    hash: str  # of the exact payload and image
    request: Mapping[str, Any]  # all but the image
    purse: str = ""
    reserved: float | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = RESERVED
    owner: str | None = None
    created: float = field(default_factory=time.time)
    sent: float | None = None
    updated: float = 0.0
    job: Mapping[str, Any] | None = None
    delivery: Mapping[str, Any] | None = None
    pictures: list[str] = field(default_factory=list)
    bytes: int = 0
    billed: float | None = None
    note: str = ""
    collected: float | None = None
    wish: str = ""

    @property
    def waits_as(self) -> str:
        """What a list of waiting jobs says of it."""
        return "under way" if self.owner else {DONE: "ready", UNKNOWN: "answer lost"}.get(self.state, "interrupted")


NAMES = tuple(field.name for field in fields(Row))


class Journal:
    def __init__(self, folder: Path):
        self._folder = Path(folder)
        self._path = self._folder / "journal.sqlite3"
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._owner: process_locks.Owner | None = None
        self._inode = 0

    def claim(self, fresh: Iterable[Row], limit: float | None, reuse: bool = True) -> list[tuple[Row, bool]]:
        """For each row: the one that stands for the same payload already, else the row itself, with its price reserved;
        and whether it is the caller's to work on. If not, it is done, or somebody works on it who is alive.

        All in one transaction, so that parallel nodes and processes can neither pay twice nor overrun `limit`. The
        limit is for the purse: what its other payloads cost, each counted once, plus these. With `reuse` off every row
        is new.
        Raises OverBudget; nothing is reserved then.
        """
        return self._do(lambda db: self._claim(db, list(fresh), limit, reuse))

    def save(self, row: Row) -> None:
        """Writes the whole row, also into a journal that had to be started anew since."""
        row.updated = time.time()
        self._do(lambda db: _write(db, row))

    def row(self, row_id: str) -> Row | None:
        return self._do(lambda db: _first(db, "id = ?", (row_id,)))

    def newest(self, name: str) -> Row | None:
        """The last row with this payload hash, or the one with this id, unless it has failed."""

        def find(db: sqlite3.Connection) -> Row | None:
            self._take_in_the_dead(db)
            return _newest(db, name)

        return self._do(find)

    def take(self, name: str) -> tuple[Row, bool] | None:
        """`newest`, and whether it is the caller's to work on now."""

        def own(db: sqlite3.Connection) -> tuple[Row, bool] | None:
            self._take_in_the_dead(db)
            row = _newest(db, name)
            return self._taken(db, row) if row else None

        return self._do(own)

    def reopen(self, row: Row) -> tuple[Row, bool]:
        """A done row whose pictures are gone from the disk: delivered again, and the caller's if nobody was faster."""

        def own(db: sqlite3.Connection) -> tuple[Row, bool]:
            current = _first(db, "id = ?", (row.id,)) or row
            if current.state == DONE:
                current.state, current.owner = DELIVERED, None
            return self._taken(db, current)

        return self._do(own)

    def is_taken(self, job: Mapping[str, Any], row: Row) -> bool:
        """Whether a job that a provider listed belongs to another row already."""
        return self._do(lambda db: _first(db, "job = ? AND id != ?", (json.dumps(job), row.id)) is not None)

    def pending(self) -> list[Row]:
        """Paid, or perhaps paid, and not collected, oldest first. Those with an owner are under way."""
        return self._do(lambda db: self._pending(db))

    def pending_of(self, wish: str) -> list[Row]:
        """Of these, the jobs whose wish begins so, and which no other living process works on."""

        def find(db: sqlite3.Connection) -> list[Row]:
            mine = (None, self._me().id)
            return [row for row in self._pending(db) if row.wish.startswith(wish) and row.owner in mine]

        return self._do(find)

    def set_collected(self, names: Iterable[str]) -> None:
        """The finished jobs with these payload hashes or ids. They are kept for a while all the same."""
        where = "(hash = ? OR id = ?) AND state = ? AND collected IS NULL"
        values = [(time.time(), name, name, DONE) for name in names]
        self._do(lambda db: db.executemany(f"UPDATE jobs SET collected = ? WHERE {where}", values))

    def put_aside(self, row_id: str) -> bool:
        """Waits no more, whatever its state; False while somebody works on it."""
        change = "UPDATE jobs SET collected = ? WHERE id = ? AND owner IS NULL"
        return self._do(lambda db: db.execute(change, (time.time(), row_id)).rowcount == 1)

    def prune(self) -> list[str]:
        """Forgets what is old, and the oldest pictures where they take too much room, but no picture that nobody has
        collected. Returns their file names."""

        def forget(db: sqlite3.Connection) -> list[str]:
            is_over = f"owner IS NULL AND (collected IS NOT NULL OR state != '{DONE}')"
            old = _rows(db, f"{is_over} AND updated < ?", (time.time() - KEEP_SECONDS,))
            room, full = KEEP_PICTURE_BYTES, []
            for row in _rows(db, "state = ? AND collected IS NOT NULL ORDER BY updated DESC", (DONE,)):
                room -= row.bytes
                if room < 0:
                    full.append(row)
            gone = {row.id: row for row in [*old, *full]}
            db.executemany("DELETE FROM jobs WHERE id = ?", [(row_id,) for row_id in gone])
            return [name for row in gone.values() for name in row.pictures]

        return self._do(forget)

    def close(self) -> None:
        with self._lock:
            if self._db:
                self._db.close()
            if self._owner:
                self._owner.close()
            self._db = self._owner = None

    def _claim(
        self, db: sqlite3.Connection, fresh: list[Row], limit: float | None, reuse: bool
    ) -> list[tuple[Row, bool]]:
        self._take_in_the_dead(db)
        found = [_same(db, row.hash) if reuse else None for row in fresh]
        new = [row for row, known in zip(fresh, found, strict=True) if known is None]
        if limit is not None and new:
            _refuse_above(limit, db, new)
        return [self._taken(db, known or row) for row, known in zip(fresh, found, strict=True)]

    def _taken(self, db: sqlite3.Connection, row: Row) -> tuple[Row, bool]:
        if row.owner is not None or row.state == DONE:
            return row, False
        row.owner, row.updated, row.collected = self._me().id, time.time(), None
        _write(db, row)
        return row, True

    def _pending(self, db: sqlite3.Connection) -> list[Row]:
        self._take_in_the_dead(db)
        states = (*TO_COLLECT, DONE)
        marks = ",".join("?" * len(states))
        return _rows(db, f"state IN ({marks}) AND collected IS NULL ORDER BY created", states)

    def _take_in_the_dead(self, db: sqlite3.Connection) -> None:
        """What a killed process left: a reserved row never left, one in sending may have."""
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

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return self._transaction(work)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
            self._set_aside()
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

    def _open(self, path: str | None = None) -> sqlite3.Connection:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(OSError), os.fdopen(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)):
            pass  # prompts are in it: nobody else on the machine reads them
        db = sqlite3.connect(path or self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"CREATE TABLE IF NOT EXISTS jobs ({COLUMNS})")
            _bring_up_to_date(db)
            db.execute("CREATE INDEX IF NOT EXISTS jobs_hash ON jobs (hash)")
            db.execute(f"SELECT {','.join(NAMES)} FROM jobs LIMIT 1")
        except BaseException:
            db.close()
            raise
        self._inode = os.stat(self._path).st_ino
        return db

    def _set_aside(self) -> None:
        """Starts a new journal beside the damaged one, unless another process has just done that."""
        if self._db:
            self._db.close()
            self._db = None
        with process_locks.exclusive(self._folder / "journal.lock"):
            if self._is_sound():
                return
            aside = self._folder / f"journal.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}.sqlite3"
            try:
                os.replace(self._path, aside)
            except OSError:
                logger.error("API Krea: %s is damaged and cannot be moved; this session keeps no journal.", self._path)
                self._db = self._open(":memory:")
                return
            for ending in ("-wal", "-shm"):
                with suppress(OSError):
                    os.replace(f"{self._path}{ending}", f"{aside}{ending}")
        logger.error(
            "API Krea: the journal was damaged and is set aside as %s. A new one begins: jobs that were paid and not "
            "collected are known only to the providers now; look there before you repeat one.",
            aside.name,
        )

    def _is_sound(self) -> bool:
        try:
            db = self._open()
        except sqlite3.DatabaseError:
            return False
        try:
            return db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            return False
        finally:
            db.close()


def _same(db: sqlite3.Connection, payload_hash: str) -> Row | None:
    """What is done costs nothing more and comes first; what can only refuse comes last."""
    return _find(db, payload_hash, f"state != '{DONE}', state IN ('{UNKNOWN}', '{SPENT}'), created DESC")


def _newest(db: sqlite3.Connection, name: str) -> Row | None:
    return _find(db, name, "created DESC")


def _find(db: sqlite3.Connection, name: str, order: str) -> Row | None:
    marks = ",".join("?" * len(TO_FIND))
    return _first(db, f"(hash = ? OR id = ?) AND state IN ({marks}) ORDER BY {order}", (name, name, *TO_FIND))


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """An older journal has neither column; what it had finished counts as collected."""
    db.execute("BEGIN IMMEDIATE")
    known = {name for _, name, *_ in db.execute("PRAGMA table_info(jobs)")}
    if "collected" not in known:
        db.execute("ALTER TABLE jobs ADD COLUMN collected REAL")
        db.execute("ALTER TABLE jobs ADD COLUMN wish TEXT DEFAULT ''")
        db.execute("UPDATE jobs SET collected = updated WHERE state = ?", (DONE,))
    db.execute("COMMIT")


def _refuse_above(limit: float, db: sqlite3.Connection, new: list[Row]) -> None:
    if any(row.reserved is None for row in new):
        raise OverBudget("Nobody knows what this costs, and there is a limit. Nothing was sent. Take the limit away.")
    asked = sum(row.reserved or 0.0 for row in new)
    spent = _spent(db, new) if new[0].purse else 0.0
    if spent + asked > limit + CENT_DUST:
        already = f" on top of ${spent:.3f} already spent or reserved for this graph" if spent else ""
        raise OverBudget(
            f"This would cost about ${asked:.3f}{already}; the limit is ${limit:.3f}. Nothing was sent or paid. "
            "Raise max_cost_usd (or FLUX_KREA_MAX_COST_USD), or ask for less."
        )


def _spent(db: sqlite3.Connection, new: list[Row]) -> float:
    """What the purse's other payloads cost. A payload that is paid again replaces its earlier self, unless that one is
    still under way: so a graph that runs every day has its whole budget every day."""
    hashes = {row.hash for row in new}
    by_hash: dict[str, float] = {}
    for row in _rows(db, "purse = ?", (new[0].purse,)):
        price = row.billed if row.billed is not None else row.reserved or 0.0
        if row.hash not in hashes or row.owner is not None:
            by_hash[row.hash] = max(price, by_hash.get(row.hash, 0.0))
    return sum(by_hash.values())


def _rows(db: sqlite3.Connection, where: str, values: Iterable[Any]) -> list[Row]:
    found = db.execute(f"SELECT {','.join(NAMES)} FROM jobs WHERE {where}", tuple(values)).fetchall()
    return [_row(dict(zip(NAMES, line, strict=True))) for line in found]


def _first(db: sqlite3.Connection, where: str, values: Iterable[Any]) -> Row | None:
    return next(iter(_rows(db, f"{where} LIMIT 1", values)), None)


def _row(values: dict[str, Any]) -> Row:
    return Row(**{name: json.loads(value) if name in AS_JSON else value for name, value in values.items()})


def _write(db: sqlite3.Connection, row: Row) -> None:
    values = [json.dumps(getattr(row, name)) if name in AS_JSON else getattr(row, name) for name in NAMES]
    db.execute(f"INSERT OR REPLACE INTO jobs ({','.join(NAMES)}) VALUES ({','.join('?' * len(NAMES))})", values)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Not locks, a full disk or missing rights: those pass, and the journal behind them is whole."""
    return type(error) is sqlite3.DatabaseError or "no such column" in str(error) or "no such table" in str(error)
