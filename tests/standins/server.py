"""What the stand-ins share: one small HTTP/1.1 server with a request log, faults on demand and a control door."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from . import core_today, fal, faults, lumenfall, one_min, replicate, runware, wavespeed
from .messages import Hangup, Reply, Request

PROVIDERS = {
    "fal": fal.Fal,
    "replicate": replicate.Replicate,
    "lumenfall": lumenfall.Lumenfall,
    "core_today": core_today.CoreToday,
    "one_min": one_min.OneMin,
    "runware": runware.Runware,
    "wavespeed": wavespeed.WaveSpeed,
}
CONTROL = "/__control__/"
RST_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Standin:
    """One provider's stand-in on loopback. `with Standin("fal") as fal:` and send everything to `fal.base_url`."""

    def __init__(self, name: str, port: int = 0, **settings):
        self.lock = threading.RLock()
        self.closing, self.hurried = threading.Event(), threading.Event()
        self.connections: set[socket.socket] = set()
        self.faults: list[faults.Fault] = []
        self.requests: list[dict] = []
        self.elsewhere: list[dict] = []
        self.kept: list[Request] | None = None
        Image.init()  # loads Pillow's formats now, at nobody's cost
        self.provider = PROVIDERS[name](self)
        self.set(**settings)
        self._front, self._other = _Server(port, self), _Server(0, self)
        self.base_url = f"http://127.0.0.1:{self._front.server_port}"
        self.other_url = f"http://127.0.0.1:{self._other.server_port}"
        for server in (self._front, self._other):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True, name=f"standin {name}").start()

    def __enter__(self) -> "Standin":
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def key(self) -> str:
        return self.provider.key

    @property
    def env(self) -> dict[str, str]:
        """What the pack must find in its environment to talk to this stand-in."""
        name = self.provider.name
        return {f"FLUX_KREA_BASE_URL_{name.upper()}": self.base_url, self.provider.key_variable: self.key}

    def close(self):
        """Ends every exchange, the hanging ones too, by a reset."""
        self.closing.set()
        self.hurried.set()
        for server in (self._front, self._other):
            server.shutdown()
            server.server_close()
        with self.lock:
            for connection in self.connections:
                _shut(connection)

    def fault(self, phase: str, kind: str, count: int | None = 1, **options):
        """The next `count` matching requests (None: all) misbehave; faults.py lists phases, kinds and options."""
        fault = faults.Fault.checked(phase, kind, count, options)
        with self.lock:
            self.faults.append(fault)

    def set(self, **settings):
        """Changes how the provider behaves from now on; Provider.settings lists the names."""
        unknown = settings.keys() - self.provider.settings.keys()
        if unknown:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        self.provider.settings.update(settings)

    def reset(self):
        """Forgets jobs, uploads, log and faults; settings go back to the provider's own."""
        with self.lock:
            self.faults.clear()
            self.requests.clear()
            self.elsewhere.clear()
            self.provider.forget()

    @contextmanager
    def recording(self) -> Iterator[list[Request]]:
        """The requests that come while it is open, whole: with the key, and so never part of `state`."""
        self.kept = seen = []
        try:
            yield seen
        finally:
            self.kept = None

    def state(self) -> dict:
        """Everything a test may want to count, ready for JSON. The key never stands in it."""
        with self.lock:
            return {
                **self.provider.state(),
                "requests": [dict(entry) for entry in self.requests],
                "elsewhere": [dict(entry) for entry in self.elsewhere],
                "faults": [fault.left() for fault in self.faults],
            }

    def take_fault(self, phase: str, text: str) -> faults.Fault | None:
        """Uses up one fault of this phase whose `prompt`, if it has one, stands in `text`."""
        with self.lock:
            for fault in self.faults:
                if fault.phase == phase and fault.options.get("prompt", "") in text:
                    if fault.use_up():
                        self.faults.remove(fault)
                    return fault
        return None

    def wait(self, seconds: float | None):
        """Sleeps (None: for ever); a closing server cuts the sleep short and resets the connection."""
        (self.closing if seconds is None else self.hurried).wait(seconds)
        if self.closing.is_set():
            raise Hangup

    def hurry(self):
        """Every job under way is done, and who sleeps wakes up."""
        for job in list(self.provider.jobs.values()):
            job.queue_seconds = job.run_seconds = 0.0
        woken, self.hurried = self.hurried, threading.Event()
        woken.set()

    def answer(self, request: Request, front: bool) -> Reply:
        """The reply to one request, logged; raises Hangup instead where a fault says so."""
        if front and request.path.startswith(CONTROL):
            return self._control(request)
        entry = self._entry(request)
        with self.lock:
            (self.requests if front else self.elsewhere).append(entry)
            if self.kept is not None:
                self.kept.append(request)
        try:
            reply = self.provider.answer(request, entry) if front else self.provider.serve(request)
        except Hangup:
            entry["status"] = "reset"
            raise
        entry["status"] = reply.status
        return reply

    def _entry(self, request: Request) -> dict:
        return {
            "time": time.time(),
            "method": request.method,
            "path": request.target,
            "phase": None,
            "headers": sorted(name.lower() for name in request.headers),
            "authorized": self.provider.authorized(request),
            "key_seen": request.contains(self.key),
            "status": None,
        }

    def _control(self, request: Request) -> Reply:
        door, given = request.path.removeprefix(CONTROL), json.loads(request.body or b"{}")
        try:
            match request.method, door:
                case "GET", "state":
                    return Reply.of(self.state())
                case "POST", "faults":
                    self.fault(**given)
                case "POST", "settings":
                    self.set(**given)
                case "POST", "reset":
                    self.reset()
                case _:
                    return Reply.of({"error": f"no control called {request.method} {door}"}, 404)
        except (TypeError, ValueError) as error:
            return Reply.of({"error": str(error)}, 400)
        return Reply.of({"ok": True})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, standin: Standin):
        super().__init__(("127.0.0.1", port), _Handler)
        self.standin = standin


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a kept-alive exchange waits 40 ms for a delayed ACK

    def setup(self):
        super().setup()
        self.standin: Standin = self.server.standin
        with self.standin.lock:
            self.standin.connections.add(self.connection)

    def finish(self):
        with self.standin.lock:
            self.standin.connections.discard(self.connection)
        super().finish()

    def handle(self):
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away, which it may

    def exchange(self):
        if "Transfer-Encoding" in self.headers:
            self.send_error(411)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, self.headers, body)
        try:
            self._send(self.standin.answer(request, self.server is self.standin._front))
        except Hangup:
            self._reset()

    do_GET = do_POST = do_PUT = do_DELETE = exchange

    def _send(self, reply: Reply):
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.stream is None:
            self.send_header("Content-Length", str(len(reply.body)))
        elif "Content-Length" not in reply.headers:
            self.send_header("Connection", "close")
        self.end_headers()
        for piece in reply.stream or self._pieces(reply):
            self.wfile.write(piece)
        if reply.cut:
            self.standin.wait(0.02)  # lets the half arrive before the reset overtakes it
            raise Hangup

    def _pieces(self, reply: Reply) -> Iterator[bytes]:
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        if not reply.pace:
            yield body
            return
        steps = max(2, int(reply.pace / 0.05))
        for step in range(steps):
            self.standin.wait(reply.pace / steps)
            yield body[len(body) * step // steps : len(body) * (step + 1) // steps]

    def _reset(self):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        socket.close(self.connection.detach())

    def log_message(self, *_):
        """The log is in `Standin.requests`; the console stays quiet."""


def _shut(connection: socket.socket):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already gone
