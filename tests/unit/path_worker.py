"""Processes for test_paid_path.py, to be killed: each has its own `Jobs` on the shared folder and does what it is told.

`python path_worker.py PORT` is one of them. `python path_worker.py` only waits, with the pack loaded, and forks one for
each port that it reads: that takes a hundredth of the time.
"""

import base64
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import fake_provider
from fake_provider import API, KEY, Call, delivery, png, submitted
from flux_krea.nodes.jobs import journal, journal_file, paid_call
from flux_krea.nodes.jobs.client import Patience
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers import fal, runware, wavespeed
from flux_krea.nodes.providers.contract import Lora, ProviderError

REAL_TIME = time.time
# Long where something could be lost by giving up, short where it is only asked again.
PATIENCE = Patience(
    connect=30,
    fault=0.5,
    rate=0.5,
    gone=0.3,
    whole_answer=60,
    whole_picture=60,
    between_polls=0.05,
    first_pause=0.02,
    longest_pause=0.1,
)
TEXT = "data:image/png;base64," + base64.b64encode(png()).decode()


def submit(plan):
    yield Call("POST", f"{API}/uploads", json={})
    body = submitted((yield Call("POST", f"{API}/jobs", json=dict(plan.payload), paid=True, timeout=60.0)))
    return {"id": body["id"]}


def submit_and_block(plan):
    call = Call("POST", f"{API}/blocking", json=dict(plan.payload), paid=True, timeout=60.0)
    return delivery(submitted((yield call)))


def submit_for_text(plan):
    done = yield from submit_and_block(plan)
    return replace(done, pictures=tuple(TEXT for _ in done.pictures))


BLOCKING = replace(fake_provider.BLOCKING, submit=submit_and_block)
PROVIDERS = {
    "fake": replace(fake_provider.QUEUE, submit=submit),
    "forgetful": replace(fake_provider.FORGETFUL, submit=submit),
    "blocking": BLOCKING,
    "textual": replace(BLOCKING, label="Textual", submit=submit_for_text),
    "fal": fal.PROVIDER,
    "runware": runware.PROVIDER,
    "wavespeed": wavespeed.PROVIDER,
}
LORAS = {"fal": (Lora("someone/a-style"),)}  # its app for LoRAs


class Worker:
    def __init__(self, connection, folder, server):
        self.connection, self.lock = connection, threading.Lock()
        for name, provider in PROVIDERS.items():
            os.environ[provider.key_variable] = KEY
            os.environ[f"FLUX_KREA_BASE_URL_{name.upper()}"] = server
        paid_call.LOOK_FOR_LOST, paid_call.WATCH_OTHERS = (0.02, 0.1), 0.03
        paid_call.TRY_DISK_AGAIN, paid_call.TELL_OF_DISK, journal.TRY_AGAIN = 0.05, 0.2, 0.05
        journal_file.WAIT_FOR_LOCK = 0.3
        self.jobs = Jobs(folder, Path(folder) / "pictures", PROVIDERS, PATIENCE)
        self.handles = {}

    def say(self, **message):
        with self.lock:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def do(self, what, **values):
        getattr(self, f"do_{what}")(**values)

    def do_start(self, key, provider, seed, images, **values):
        try:
            self._watch(key, self.jobs.start(provider, self.asked(provider, seed, images), **values))
        except ProviderError as error:
            self._ended(key, error)

    @staticmethod
    def asked(provider, seed, images):
        return fake_provider.asked(seed, images=images, loras=LORAS.get(provider, ()))

    def do_cancel(self, key):
        if key in self.handles:
            self.handles[key].cancel()

    def do_clock(self, seconds):
        time.time = lambda: REAL_TIME() + seconds

    def do_disk(self, full):
        """A full disk at the file layer: no regular file can be written any more, also not by SQLite. (EFBIG instead of
        ENOSPC: the limit of the process stands in for that of the disk, which nobody may set without rights.)"""
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else hard, hard))

    def do_idle(self, key):
        """Says so when no thread works on a paid call any more."""

        def wait():
            while self.jobs._working:
                time.sleep(0.01)
            self.say(key=key, ended="idle")

        threading.Thread(target=wait, daemon=True).start()

    def _watch(self, key, handle):
        self.handles[key] = handle
        handle.future.add_done_callback(lambda future: self._ended(key, future.exception() or future.result()))

    def _ended(self, key, end):
        if isinstance(end, BaseException):
            self.say(key=key, ended=type(end).__name__, text=str(end))
        else:
            names = [Path(picture.path).name for picture in end.pictures]
            good = all(picture.read() == png() for picture in end.pictures)
            self.say(key=key, ended="picture" if good and names else "nothing", pictures=names, seed=end.seed)


def main(port):
    connection = socket.create_connection(("127.0.0.1", port))
    lines = connection.makefile("r", encoding="utf-8")
    worker = Worker(connection, **json.loads(next(lines)))
    worker.say(pid=os.getpid())
    for line in lines:
        worker.do(**json.loads(line))
    os._exit(0)


def fork_for_each_line():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        if os.fork() == 0:
            main(int(line))


if __name__ == "__main__":
    main(int(sys.argv[1])) if sys.argv[1:] else fork_for_each_line()
