"""The whole paid path as a state machine: random interleavings of orders, cancels, kills, damage, full disks, locks and
clocks, in real processes on one folder, over real HTTP. See test_paid_path.py.

What must hold, whatever was done, in whatever order:
  paid once     each payload is paid once, and once more only where `reuse` was off or the job before was cancelled;
  not lost      what the provider made is had by a plain run that may pay nothing, in a new process; where the provider
                keeps no list of its jobs, and the answer to the paid call was lost, the run says that it may be paid;
  no more paid  than a limit of one run, or of a day, allows;
  no end missed every run ends once disk, journal and provider are well again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import fake_provider
import path_dialects
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from path_dialects import LOSES_ANSWER, of_payload

WORKER = Path(__file__).with_name("path_worker.py")
PRICE = 0.025  # of a picture
PER_DAY = 1.0  # US dollars, of the whole example
PER_BURST = 2  # pictures that the limit of a burst allows
DAY = 86400.0
PATIENCE = 120.0  # seconds; what takes so long never ends
# The first seed of each. The last three are the pack's own: fal with a LoRA, Runware and WaveSpeed.
PROVIDERS = {
    "fake": 1000,
    "forgetful": 2000,
    "blocking": 3000,
    "textual": 4000,
    "fal": 5000,
    "runware": 6000,
    "wavespeed": 7000,
}
PRICES = {"fal": 0.035, "runware": 0.0098}  # of a picture; PRICE at the others
MOST_IMAGES = {"fake": 2, "forgetful": 2, "fal": 4}  # in one paid call; one at the others
LISTED = ("fake", "fal", "runware", "wavespeed")  # a job whose answer was lost can be looked for
CAN_FILL_DISK = os.name != "nt"

UNHURRIED = settings(
    database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False
)

providers = st.sampled_from(list(PROVIDERS))
numbers = st.integers(0, 2)
images = st.sampled_from([1, 1, 1, 2, 3])
pauses = st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.3])


class Handler(path_dialects.Handler):
    """As its parent; what blocks can be hurried."""

    def do_POST(self):
        if self.path not in ("/jobs", "/blocking", "/uploads"):
            return super().do_POST()
        kind = "upload" if self.path == "/uploads" else "submit"
        payload = self.begin(kind)
        if kind == "upload":
            return None if self.is_faulty(kind) else self.answer(200, {})
        job = self.accepted(payload)
        if job is None:
            return None
        while self.path == "/blocking" and not self.server.is_done(job):
            time.sleep(0.01)
        return self.answer(201, self.server.result(job) if self.path == "/blocking" else {"id": job["id"]})


class Server(fake_provider.FakeServer):
    def __init__(self):
        self.lost = set()  # payloads of whose paid call an answer was lost
        self.by_uuid = {}  # Runware's jobs
        self.goes_on = False  # says yes to a cancel, and goes on
        super().__init__()
        self.RequestHandlerClass = Handler

    def is_done(self, job):
        if job["id"] not in self.cancelled and self.duration is not None:
            job["done"] = job.get("done") or time.monotonic() - job["since"] >= self.duration
        return job.get("done", False)


def parts(provider, seed, count):
    """(seed, images) of each paid call of a request."""
    most = MOST_IMAGES.get(provider, 1)
    return [(seed + first, min(most, count - first)) for first in range(0, count, most)]


def price_of(seed):
    """US dollars of a picture, at the provider that has the seed."""
    provider = max((first, name) for name, first in PROVIDERS.items() if first <= seed)[1]
    return PRICES.get(provider, PRICE)


class Forks:
    """Starts workers in a hundredth of a second each."""

    def __init__(self):
        self._environment = {
            **os.environ,
            "FLUX_KREA_MAX_COST_USD_24H": str(PER_DAY),
            "FLUX_KREA_MAX_COST_USD": str(PER_DAY),
        }
        self._forker = None

    def start(self, port):
        if os.name == "nt":
            subprocess.Popen([sys.executable, str(WORKER), str(port)], env=self._environment)
            return
        if self._forker is None:
            self._forker = subprocess.Popen(
                [sys.executable, str(WORKER)], stdin=subprocess.PIPE, text=True, env=self._environment
            )
        self._forker.stdin.write(f"{port}\n")
        self._forker.stdin.flush()

    def close(self):
        if self._forker:
            self._forker.stdin.close()
            self._forker.wait(PATIENCE)
        self._forker = None


class Worker:
    """A process, seen from here: what it was told, and how that ended."""

    def __init__(self, forks, folder, server):
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.settimeout(PATIENCE)
            forks.start(door.getsockname()[1])
            self._connection = door.accept()[0]
        self._ended = {}
        self._changed = threading.Condition()
        self._lines = self._connection.makefile("r", encoding="utf-8")
        self._say({"folder": str(folder), "server": server})
        self.pid = json.loads(next(self._lines))["pid"]
        self.open = {}  # key → payloads, of what it was told to start
        self._count = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, what, payloads=(), **values):
        """Returns the key by which the end is known, for what has one."""
        if what in ("start", "idle"):
            self._count += 1
            values["key"] = str(self._count)
            if what == "start":
                self.open[values["key"]] = tuple(payloads)
        self._say({"what": what, **values})
        return values.get("key")

    def end_of(self, key):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._ended, PATIENCE), "a run never ended"
            return self._ended[key]

    def unfinished(self):
        with self._changed:
            return {payload for key, payloads in self.open.items() for payload in payloads}

    def kill(self):
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        with self._changed:
            assert self._changed.wait_for(lambda: self._lines is None, PATIENCE)
        self._connection.close()

    def _say(self, message):
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self):
        with suppress(OSError, ValueError):
            for line in self._lines:
                message = json.loads(line)
                with self._changed:
                    self._ended[message["key"]] = message
                    self._changed.notify_all()
        with self._changed:
            self._lines = None
            self._changed.notify_all()


class PaidPath(RuleBasedStateMachine):
    forks = Forks()
    steps = examples = jobs_paid = 0  # of all machines

    @initialize()
    def begin(self):
        type(self).examples += 1
        self.folder = Path(tempfile.mkdtemp(prefix="krea-path-"))
        self.server = Server()
        self.server.duration = 0.1
        self.log = []
        self.workers = []
        self.orders = {}  # (provider, seed, images) of every plain order → its payloads
        self.reuse_off = []  # payloads ordered with it
        self.exposed = set()  # payloads under way in a process that was killed
        self.bursts = []  # seeds
        self.jumps = 0
        self.lock, self.locked_until = None, 0.0
        self.drawn = 0
        self.copies = []  # of the journal, as somebody's backup has it
        self.begin_process()

    def note(self, *words):
        type(self).steps += 1
        self.log.append(words)
        if self.lock and time.monotonic() > self.locked_until:
            self.unlock()

    # Orders

    @rule(
        number=numbers,
        provider=providers,
        count=images,
        which=st.integers(0, 9),
        reuse=st.sampled_from([True] * 5 + [False]),
        pause=pauses,
    )
    def order(self, number, provider, count, which, reuse, pause):
        seed = PROVIDERS[provider] + 10 * number
        payloads = parts(provider, seed, count)
        self.note("order", provider, seed, count, reuse, which)
        self.orders[provider, seed, count] = payloads
        if not reuse:
            self.reuse_off += payloads
        if self.journal.exists():
            self.copies.append(self.journal.read_bytes())
        worker = self.workers[which % len(self.workers)]
        worker.tell("start", payloads, provider=provider, seed=seed, images=count, reuse=reuse)
        time.sleep(pause)

    @rule(count=st.integers(2, 6), which=st.integers(0, 9), pause=pauses)
    def order_the_same_again(self, count, which, pause):
        """A graph with several nodes, run again, spread over the processes."""
        self.note("again", count, which)
        for index, ((provider, seed, images), payloads) in enumerate(list(self.orders.items())[-count:]):
            worker = self.workers[(which + index) % len(self.workers)]
            worker.tell("start", payloads, provider=provider, seed=seed, images=images)
        time.sleep(pause)

    @rule(provider=providers, which=st.integers(0, 9), run=st.integers(0, 3), pause=pauses)
    def draw(self, provider, which, run, pause):
        """Seed -1."""
        self.drawn += 1
        seed = PROVIDERS[provider] + 100 + 10 * self.drawn
        self.note("draw", provider, seed, which, run)
        values = {"provider": provider, "seed": seed, "images": 1, "drawn_by": f"run {run}"}
        self.workers[which % len(self.workers)].tell("start", [(seed, 1)], **values)
        time.sleep(pause)

    @rule(
        which=st.integers(0, 9),
        provider=st.sampled_from(["fake", "blocking", "fal", "runware", "wavespeed"]),
        reuse=st.booleans(),
    )
    def burst(self, which, provider, reuse):
        """Eight nodes in one run, in all the processes that there are, under a limit for two."""
        if len(self.bursts) > 2:
            return
        seed = PROVIDERS[provider] + 700 + 10 * len(self.bursts)
        self.bursts.append(seed)
        self.note("burst", provider, seed, reuse)
        for index in range(8):
            worker = self.workers[(which + index) % len(self.workers)]
            own = seed if not reuse else seed + index
            self.reuse_off += [] if reuse else [(own, 1)]
            values = {"provider": provider, "seed": own, "images": 1, "reuse": reuse}
            worker.tell(
                "start", [(own, 1)], **values, max_cost_usd=PER_BURST * price_of(seed), budget_key=f"burst {seed}"
            )

    @rule(which=st.integers(0, 9), latest=st.integers(0, 3), pause=pauses)
    def cancel(self, which, latest, pause):
        worker = self.workers[which % len(self.workers)]
        keys = list(worker.open)[-1 - latest :]
        self.note("cancel", which, keys[:1])
        if keys:
            worker.tell("cancel", key=keys[0])
        time.sleep(pause)

    # Processes

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def begin_process(self):
        self.note("begin process")
        self.workers.append(Worker(self.forks, self.folder, self.server.url))

    @rule(which=st.integers(0, 9), pause=pauses)
    def crash_and_restart(self, which, pause):
        time.sleep(pause)
        which %= len(self.workers)
        self.note("crash", which)
        self.exposed |= self.workers[which].unfinished()
        self.workers[which].kill()
        self.workers[which] = Worker(self.forks, self.folder, self.server.url)

    # The provider

    @rule(duration=st.sampled_from([None, 0.0, 0.1, 0.3]), goes_on=st.sampled_from([False, False, True]))
    def provider_pace(self, duration, goes_on):
        self.note("pace", duration, goes_on)
        self.server.duration, self.server.goes_on = duration, goes_on

    @rule(
        fault=st.sampled_from(
            [("submit", each) for each in (*LOSES_ANSWER, "reset", 429, 422, 500)]
            + [("upload", 503), ("poll", 500), ("poll", "reset"), ("poll", "html"), ("list", 401), ("list", "reset")]
            + [("picture", 500), ("picture", "reset"), ("picture", "html"), ("cancel", 400)]
        ),
        times=st.sampled_from([1, 1, 2, 4]),
    )
    def provider_fault(self, fault, times):
        self.note("fault", *fault, times)
        kind, what = fault
        self.server.faults[kind] = [what] * (1 if what == "reset" and kind == "submit" else times)

    # This machine

    @precondition(lambda self: CAN_FILL_DISK)
    @rule(which=st.integers(0, 9), full=st.sampled_from([True, False, False]), pause=pauses)
    def disk(self, which, full, pause):
        self.note("disk", which, full)
        self.workers[which % len(self.workers)].tell("disk", full=full)
        time.sleep(pause)

    @rule(which=st.integers(0, 9), days=st.sampled_from([0, 2, -2, 20, -20, 45, -45]))
    def clock(self, which, days):
        self.note("clock", which, days)
        self.jumps += days > 0
        self.workers[which % len(self.workers)].tell("clock", seconds=days * DAY)

    # The journal

    @property
    def journal(self):
        return self.folder / "journal.sqlite3"

    def _ends_alone(self):
        """Nobody works meanwhile: what is cut off under a process that writes is SQLite's own end, not ours."""
        for index, worker in enumerate(self.workers):
            self.exposed |= worker.unfinished()
            worker.kill()
            self.workers[index] = None

    def _restart(self):
        self.workers = [Worker(self.forks, self.folder, self.server.url) for _ in self.workers]

    @rule(kind=st.sampled_from(["garbage", "header", "cut", "older", "row", "odd row"]), at=st.floats(0.1, 0.9))
    def damage_and_restart(self, kind, at):
        self.note("damage", kind, at)
        self.unlock()
        self._ends_alone()
        size = self.journal.stat().st_size if self.journal.exists() else 0
        if size and kind == "garbage":
            self.journal.write_bytes(b"not a database at all, " * 50)
        elif size and kind == "header":
            self.journal.write_bytes(b"\xff" * 100 + self.journal.read_bytes()[100:])
        elif size and kind == "cut":
            os.truncate(self.journal, int(size * at))
        elif self.copies and kind == "older":
            self.journal.write_bytes(self.copies[int(at * len(self.copies))])
        elif size:
            values = "job = '{', request = 'x'" if kind == "row" else "request = '5', delivery = '[]', pictures = '7'"
            self._change(f"UPDATE jobs SET {values} WHERE rowid IN (SELECT rowid FROM jobs ORDER BY id LIMIT 1)")
        self._restart()

    @rule(kind=st.sampled_from(["emptied", "deleted"]))
    def lose_the_journal_in_use(self, kind):
        self.note("lose", kind)
        self.unlock()
        if kind == "emptied":
            self._change("DELETE FROM jobs")
        else:
            for ending in ("", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.journal}{ending}")

    def _change(self, statement):
        if not self.journal.exists():
            return
        db = sqlite3.connect(self.journal, timeout=30, isolation_level=None)
        with suppress(sqlite3.DatabaseError):  # damaged before
            db.execute(statement)
        db.close()

    @rule(pause=st.sampled_from([0.1, 0.5, 1.0]))
    def another_program_locks_the_journal(self, pause):
        """And lets go again some time later: see `unlock`."""
        self.note("lock")
        self.unlock()
        if self.journal.exists():
            self.lock = sqlite3.connect(self.journal, timeout=30, isolation_level=None)
            with suppress(sqlite3.DatabaseError):
                self.lock.execute("BEGIN EXCLUSIVE")
        self.locked_until = time.monotonic() + pause

    def unlock(self):
        if self.lock:
            self.lock.close()
        self.lock = None

    # What holds at any time

    @invariant()
    def paid_once(self):
        with self.server.lock:
            jobs = list(self.server.jobs.values())
            cancelled = set(self.server.cancelled)
        for payload in {of_payload(job["payload"]) for job in jobs}:
            paid = [job["id"] for job in jobs if of_payload(job["payload"]) == payload]
            allowed = 1 + self.reuse_off.count(payload) + sum(each in cancelled for each in paid)
            assert len(paid) <= allowed, (payload, paid, cancelled, self.story())

    @invariant()
    def no_limit_passed(self):
        with self.server.lock:
            counts = [of_payload(job["payload"]) for job in self.server.jobs.values()]
        for seed in self.bursts:
            paid = sum(seed <= other < seed + 10 for other, _ in counts)
            assert paid <= PER_BURST, (seed, paid, self.story())
        paid = sum(count * price_of(seed) for seed, count in counts)
        assert paid <= PER_DAY * (1 + self.jumps) + 1e-9, (paid, self.story())

    def story(self):
        return "\n".join(map(str, self.log))

    # The end: everything is well again

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        try:
            self.heal()
            for worker in self.workers:
                for key in worker.open:
                    worker.end_of(key)
                worker.end_of(worker.tell("idle"))
            self.paid_once()
            self.no_limit_passed()
            for worker in self.workers:
                worker.kill()
            self.nothing_is_lost()
            self.paid_once()
            type(self).jobs_paid += self.server.paid
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None
        finally:
            for worker in self.workers:
                with suppress(OSError, AssertionError):
                    worker.kill()
            self.unlock()
            self.server.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def heal(self):
        self.unlock()
        self.server.faults.clear()
        self.server.duration, self.server.goes_on = 0.0, False
        for worker in self.workers:
            if CAN_FILL_DISK:
                worker.tell("disk", full=False)

    def nothing_is_lost(self):
        """Each plain order again, in a new process that may pay nothing."""
        worker = Worker(self.forks, self.folder, self.server.url)
        self.workers = [worker]
        before = self.server.paid
        for (provider, seed, count), payloads in self.orders.items():
            made = {
                of_payload(job["payload"])
                for job in self.server.jobs.values()
                if job["id"] not in self.server.cancelled
            }
            if not set(payloads) <= made:
                continue
            end = self.again(worker, provider, seed, count)
            may_be_lost = provider not in LISTED and set(payloads) & (self.exposed | self.server.lost)
            is_told = end["ended"] == "UnknownOutcome" and "nobody knows whether it was paid" in end["text"]
            assert end["ended"] == "picture" or (may_be_lost and is_told), (provider, seed, count, end)
        assert self.server.paid == before

    def again(self, worker, provider, seed, count):
        for _ in range(3):  # a journal that was lost is said first
            values = {"provider": provider, "seed": seed, "images": count, "max_cost_usd": 0.0}
            end = worker.end_of(worker.tell("start", parts(provider, seed, count), **values))
            if "read back" not in end.get("text", ""):
                return end
        return end
