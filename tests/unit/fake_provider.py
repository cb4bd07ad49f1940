"""A small provider, and the real HTTP server on loopback that plays it: it counts what it would bill, and misbehaves
when told to. `python fake_provider.py FOLDER BASE SEED` runs one job in a process of its own, to be killed."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import struct
import sys
import threading
import time
import zlib
from collections import defaultdict
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if "flux_krea" not in sys.modules:
    conftest = Path(__file__).parent.parent / "conftest.py"
    spec = importlib.util.spec_from_file_location("krea_conftest", conftest)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

from flux_krea.nodes.jobs.client import Patience  # noqa: E402
from flux_krea.nodes.jobs.jobs import Jobs  # noqa: E402
from flux_krea.nodes.providers.contract import (  # noqa: E402
    Call,
    ContentRefused,
    Delivery,
    Estimate,
    GenerationFailed,
    GenerationRequest,
    KeyRefused,
    Plan,
    Progress,
    Provider,
    RateLimited,
    RequestRefused,
    UnknownOutcome,
    Unsupported,
)

API = "https://api.fake.example"
KEY = "test-key-fake-marked"
QUICK = Patience(
    connect=1, fault=0.6, rate=0.8, gone=0.2, whole_answer=1.5, whole_picture=1.5, first_pause=0.02, longest_pause=0.1
)


def plan(request):
    if request.prompt == "impossible":
        raise Unsupported("Fake does not do this. Nothing was sent.")
    return Plan("fake/krea", {"prompt": request.prompt, "seed": request.seed, "n": request.images})


def submitted(answer):
    if answer.status == 401:
        raise KeyRefused(f"Fake answered 401: {answer.body.decode()}")
    if answer.status == 429:
        raise RateLimited("Fake answered 429.")
    if 400 <= answer.status < 500:
        raise RequestRefused(f"Fake answered {answer.status}.")
    body = answer.json()
    if not answer.ok or not isinstance(body, dict) or "id" not in body:
        raise UnknownOutcome(f"Fake answered {answer.status} and something unreadable.", paid=None)
    return body


def delivery(body):
    pictures = tuple(body["pictures"])
    return Delivery(
        pictures, (False,) * len(pictures), seed=body["seed"], cost_usd=0.025 * len(pictures), request_id=body["id"]
    )


def submit(plan):
    yield Call("POST", f"{API}/uploads", json={})
    body = submitted((yield Call("POST", f"{API}/jobs", json=dict(plan.payload), paid=True, timeout=1.0)))
    return {"id": body["id"]}


def follow(job, request):
    url = f"{API}/jobs/{job['id']}"
    while True:
        poll = Call("GET", url, delay=0.02, cancel=Call("DELETE", url), progress=Progress("making"), timeout=1.0)
        answer = yield poll
        body = answer.json()
        if not isinstance(body, dict) or not answer.ok:
            continue
        if body["status"] == "failed":
            raise GenerationFailed("Fake could not make it.", paid=True)
        if body["status"] == "refused":
            raise ContentRefused("Fake withheld every picture: NSFW content.", paid=True)
        if body["status"] == "done":
            return delivery(body)


def submit_and_block(plan):
    call = Call("POST", f"{API}/blocking", json=dict(plan.payload), paid=True, timeout=5.0)
    return delivery(submitted((yield call)))


def find_lost(plan, age):
    answer = yield Call("GET", f"{API}/jobs", timeout=1.0)
    if not answer.ok:
        raise RequestRefused(f"Fake answered {answer.status}.")
    return tuple({"id": job["id"]} for job in answer.json() if job["payload"] == dict(plan.payload))


QUEUE = Provider(
    label="Fake",
    key_variable="FAKE_KEY",
    key_page="https://fake.example/keys",
    hosts=("api.fake.example",),
    headers=lambda key: {"Authorization": f"Key {key}"},
    plan=plan,
    submit=submit,
    follow=follow,
    estimate=lambda request: Estimate(0.025 * request.images),
    parameters={},
    max_images=2,
    check=Call("GET", f"{API}/account"),
    find_lost=find_lost,
)
FORGETFUL = replace(QUEUE, label="Forgetful", find_lost=None)
BLOCKING = replace(QUEUE, label="Blocking", submit=submit_and_block, follow=None, find_lost=None, max_images=1)
PROVIDERS = {"fake": QUEUE, "forgetful": FORGETFUL, "blocking": BLOCKING}


def asked(seed=1, **values):
    return GenerationRequest(prompt=values.pop("prompt", "a lighthouse"), seed=seed, **values)


def jobs_in(folder):
    return Jobs(folder, Path(folder) / "pictures", PROVIDERS, QUICK)


@cache
def png(width=8, height=8):
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 120, 40)).save(file, "PNG")
    return file.getvalue()


def bomb(side=20000):
    """A small file whose header announces side × side pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


class FakeServer(ThreadingHTTPServer):
    """`faults[kind]` is a list of faults, one for each coming request of a kind: submit, poll, list, cancel, picture,
    upload. A fault that is a number is the status answered; `duration` is how long a job takes, None is for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults = defaultdict(list)
        self.seen = []  # (kind, headers, body)
        self.ports = []  # the client's, of each request
        self.arrived = defaultdict(threading.Event)
        self.let_go = threading.Event()  # ends every hanging answer
        self.jobs = {}
        self.cancelled = []
        self.refused_seeds = []
        self.duration = 0.0
        self.picture = png()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def paid(self):
        return len(self.jobs)

    def count(self, kind):
        return sum(1 for seen, _, _ in self.seen if seen == kind)

    def accept(self, payload):
        with self.lock:
            job = {"id": f"job-{len(self.jobs) + 1}", "payload": payload, "since": time.monotonic()}
            self.jobs[job["id"]] = job
            return job

    def result(self, job):
        urls = [f"{self.url}/pictures/{job['id']}-{i}.png" for i in range(job["payload"]["n"])]
        return {"id": job["id"], "status": "done", "pictures": urls, "seed": job["payload"]["seed"]}

    def handle_error(self, request, client_address):
        """Broken connections are the tests' own doing."""

    def stop(self):
        self.let_go.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        kind = {"/jobs": "submit", "/blocking": "submit", "/uploads": "upload"}[self.path]
        payload = self.begin(kind)
        fault = self.next_fault(kind)
        if fault and fault != "reset_after" and fault != "malformed" and fault != "hang_after":
            return self.misbehave(fault)
        if kind == "upload":
            return self.answer(200, {})
        job = self.server.accept(payload)
        if fault:
            return self.misbehave(fault)
        if self.path == "/blocking":
            self.server.let_go.wait(30.0 if self.server.duration is None else self.server.duration)
            return self.answer(200, self.server.result(job))
        self.answer(201, {"id": job["id"]})

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/pictures/"):
            self.begin("picture")
            fault = self.next_fault("picture")
            return self.misbehave(fault) if fault else self.answer(200, self.server.picture, "application/octet-stream")
        if path == "/account":
            self.begin("account")
            return self.answer(200 if self.headers.get("Authorization") == f"Key {KEY}" else 401, {})
        kind = "list" if path == "/jobs" else "poll"
        self.begin(kind)
        fault = self.next_fault(kind)
        if fault:
            return self.misbehave(fault)
        if kind == "list":
            return self.answer(200, list(self.server.jobs.values()))
        job = self.server.jobs[path.rsplit("/", 1)[1]]
        duration = self.server.duration
        if job["id"] in self.server.cancelled:
            return self.answer(200, {"status": "failed"})
        if job["payload"]["seed"] in self.server.refused_seeds:
            return self.answer(200, {"status": "refused"})
        if duration is None or time.monotonic() - job["since"] < duration:
            return self.answer(200, {"status": "queued"})
        self.answer(200, self.server.result(job))

    def do_DELETE(self):
        self.begin("cancel")
        fault = self.next_fault("cancel")
        if fault:
            return self.misbehave(fault)
        self.server.cancelled.append(self.path.rsplit("/", 1)[1])
        self.answer(202, {})

    def begin(self, kind):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((kind, dict(self.headers), body))
        self.server.ports.append(self.client_address[1])
        self.server.arrived[kind].set()
        return json.loads(body) if self.headers.get("Content-Type") == "application/json" else None

    def next_fault(self, kind):
        with self.server.lock:
            return self.server.faults[kind].pop(0) if self.server.faults[kind] else None

    def misbehave(self, fault):
        if callable(fault):
            return fault(self)
        if isinstance(fault, int):
            return self.answer(fault, {"detail": f"fault {fault}"})
        if fault == "html":
            return self.answer(200, b"<!DOCTYPE html><html>sign in</html>", "text/html")
        if fault == "malformed":
            return self.answer(200, b'{"id": "jo', "application/json")
        if fault in ("hang", "hang_after"):
            self.server.let_go.wait(20.0)
        return self.reset()

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def answer(self, status, body, content_type="application/json", headers=()):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Quiet."""


def main():
    folder, base, provider_id, seed = sys.argv[1:]
    for name in PROVIDERS:
        os.environ[f"FLUX_KREA_BASE_URL_{name.upper()}"] = base
    os.environ["FAKE_KEY"] = KEY
    jobs_in(folder).start(provider_id, asked(int(seed))).result(30)


if __name__ == "__main__":
    main()
