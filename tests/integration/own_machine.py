"""What goes wrong on this machine under a paid call: cancels, disk, journal, clock, locks. Each on a private folder of its
own; what happens "when the answer comes" happens before its first record is written."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flux_krea.nodes.jobs import journal_file
from flux_krea.nodes.jobs.job_record import ACCEPTED, DELIVERED, JobRecord
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.jobs.records import Records
from flux_krea.nodes.providers.contract import GenerationRequest, ProviderError

DAY = 86400.0
Ended = tuple[str, str]  # how, and the sentence
_when_answered: dict[str, Callable[[JobRecord], None]] = {}  # by prompt


@contextmanager
def watched() -> Iterator[None]:
    """While the table is made: the moment when an answer has come is known."""
    write = Records.write

    def write_watched(records: Records, record: JobRecord) -> None:
        if record.state in (ACCEPTED, DELIVERED):
            _when_answered.get(record.request["prompt"], lambda record: None)(record)
        write(records, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "write", write_watched)
        patch.setattr(journal_file, "WAIT_FOR_LOCK", 1.0)
        yield


def end_of(handle) -> Ended:
    try:
        result = handle.result(60)
    except ProviderError as error:
        return type(error).__name__, str(error)
    return ("picture" if result.pictures else "nothing"), ""


@dataclass
class Machine:
    folder: Path
    standin: object
    provider: str
    request: GenerationRequest
    processes: list[Jobs] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.folder / "journal.sqlite3"

    def process(self) -> Jobs:
        """As one that was just started."""
        self.processes.append(Jobs(self.folder, self.folder / "pictures"))
        return self.processes[-1]

    def run(self, jobs: Jobs) -> Ended:
        return end_of(jobs.start(self.provider, self.request))

    def when_answered(self, happens: Callable[[], None]) -> None:
        """Once; `happens` may raise, as a write does."""

        def first(record: JobRecord) -> None:
            del _when_answered[self.request.prompt]
            happens()

        _when_answered[self.request.prompt] = first

    def fault(self, phase: str, kind: str, **options) -> None:
        self.standin.fault(phase, kind, options.pop("count", None), prompt=self.request.prompt, **options)

    def well_again(self) -> None:
        _when_answered.pop(self.request.prompt, None)
        with self.standin.lock:
            self.standin.faults[:] = [
                fault for fault in self.standin.faults if fault.options["prompt"] != self.request.prompt
            ]

    def change_journal(self, statement: str) -> None:
        db = sqlite3.connect(self.journal, timeout=30)
        with db:
            db.execute(statement)
        db.close()

    def close(self) -> None:
        for jobs in self.processes:
            jobs.close()


Play = Callable[[Machine], tuple[Ended, Ended]]


def cancelled(status: int) -> Play:
    """What the provider answers to the cancel; it goes on in any case."""

    def play(machine: Machine) -> tuple[Ended, Ended]:
        machine.fault("cancel", "status", status=status)
        jobs = machine.process()
        handle = jobs.start(machine.provider, machine.request)
        machine.when_answered(handle.cancel)
        how, _ = end_of(handle)
        return (how, ""), machine.run(jobs)

    return play


def disk_full(machine: Machine) -> tuple[Ended, Ended]:
    def full(record: JobRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    _when_answered[machine.request.prompt] = full
    jobs = machine.process()
    first = machine.run(jobs)
    machine.well_again()
    return first, machine.run(jobs)


def journal_held(machine: Machine) -> tuple[Ended, Ended]:
    jobs = machine.process()
    holders = []

    def hold() -> None:
        holders.append(sqlite3.connect(machine.journal, isolation_level=None, check_same_thread=False))
        holders[0].execute("BEGIN EXCLUSIVE")

    machine.when_answered(hold)
    first = machine.run(jobs)
    holders[0].close()
    return first, machine.run(jobs)


def journal_lost(lose: Callable[[Machine], None]) -> Play:
    def play(machine: Machine) -> tuple[Ended, Ended]:
        machine.when_answered(lambda: lose(machine))
        first = machine.run(machine.process())
        return first, machine.run(machine.process())

    return play


def row_broken(machine: Machine) -> tuple[Ended, Ended]:
    first = machine.run(machine.process())
    machine.change_journal("UPDATE jobs SET request = '{', delivery = 'x'")
    return first, machine.run(machine.process())


def clock_jumps(days: float) -> Play:
    """Between the lost answer and the next run; what is on disk is as old, or as young, as it looks to that clock."""

    def play(machine: Machine) -> tuple[Ended, Ended]:
        machine.fault("submit", "hang", count=1, seconds=8)
        jobs = machine.process()
        first = machine.run(jobs)
        machine.well_again()
        time.sleep(8)  # the provider has accepted it by then
        jobs.close()
        machine.change_journal(f"UPDATE jobs SET sent = sent - {days * DAY}, created = created - {days * DAY}")
        return first, machine.run(machine.process())

    return play


def lock_orphaned(machine: Machine) -> tuple[Ended, Ended]:
    """The picture does not come, and the process that asked for it is dead: its lock's file and its name are left."""
    machine.fault("picture", "status", status=404)
    jobs = machine.process()
    first = machine.run(jobs)
    machine.well_again()
    jobs.close()
    (machine.folder / "running" / "999-dead.lock").touch()
    machine.change_journal("UPDATE jobs SET owner = '999-dead'")
    return first, machine.run(machine.process())


def garbage(machine: Machine) -> None:
    machine.journal.write_bytes(b"not a database at all, " * 50)


def deleted(machine: Machine) -> None:
    os.unlink(machine.journal)


def emptied(machine: Machine) -> None:
    machine.change_journal("DELETE FROM jobs")
