"""Deadlines that hold in every phase of an exchange, against real sockets that send a little, always in time."""

import socket
import threading
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_provider import API, KEY, QUEUE, QUICK, FakeServer, png
from flux_krea.nodes.jobs.client import Client, NoAnswer
from flux_krea.nodes.jobs.deadlines import Deadline
from flux_krea.nodes.providers.contract import Call, Unavailable

PAID = Call("POST", f"{API}/jobs", json={"n": 1}, paid=True)
SHORT = replace(QUICK, connect=5, fault=0.01, whole_answer=0.4, whole_picture=0.4, silence=5)
LONGEST = 400  # pieces, of which one is sent every 0.03 s: what outlasts them ends otherwise than by the deadline


class Trickle:
    """A server that reads a request, sends `head`, and then `piece` again and again."""

    def __init__(self, head: bytes, piece: bytes, reads: bool = True):
        self.head, self.piece, self.reads = head, piece, reads
        self.stopped = threading.Event()
        self.hung_up = threading.Event()  # the client did, before the last piece
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, suppress(OSError):
            if self.reads:
                connection.recv(2**16)
            connection.sendall(self.head)
            for _ in range(LONGEST):
                if self.stopped.wait(0.03):
                    return
                connection.sendall(self.piece)
            return
        self.hung_up.set()

    def stop(self):
        self.stopped.set()
        self.socket.close()


@pytest.fixture
def trickle():
    running = []

    def start(*arguments, **values):
        running.append(Trickle(*arguments, **values))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def client_of(address, monkeypatch, patience=SHORT):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", address)
    return Client("fake", QUEUE, KEY, patience)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PHASES = {
    "a status line that trickles": (b"HTTP/1.1 200 O", b"K"),
    "a header that trickles": (OK + b"X-Long: ", b"a"),
    "interim answers without end": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body that trickles": (OK + b"Content-Length: 5000\r\n\r\n", b" "),
    "a body without an announced end": (OK + b"\r\n{", b" "),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n"),
    "the extension of a chunk": (CHUNKED + b"5;", b"x"),
    "trailers without end": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-Trailer: 1\r\n"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_of_an_answer_meets_the_deadline(trickle, monkeypatch, phase):
    server = trickle(*PHASES[phase])
    client = client_of(f"http://127.0.0.1:{server.port}", monkeypatch)
    with pytest.raises(NoAnswer, match="too slowly") as lost:
        client.pay(PAID)
    assert lost.value.was_sent and server.hung_up.wait(10)
    with pytest.raises(Unavailable, match="too slowly"):
        client.ask(Call("GET", f"{API}/jobs"))
    client.close()


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_of_a_picture_meets_the_deadline(trickle, monkeypatch, tmp_path, phase):
    server = trickle(*PHASES[phase])
    client = client_of(f"http://127.0.0.1:{server.port}", monkeypatch)
    with pytest.raises(Unavailable, match="too slowly"):
        client.download(f"{API}/pictures/a.png", tmp_path, "a")
    assert server.hung_up.wait(10) and list(tmp_path.iterdir()) == []


def test_a_handshake_that_trickles_meets_the_deadline_and_nothing_was_sent(trickle, monkeypatch):
    server = trickle(b"\x16\x03\x03\x40\x00", b"\x02", reads=False)
    with pytest.raises(NoAnswer, match="too slowly") as failure:
        client_of(f"https://127.0.0.1:{server.port}", monkeypatch).pay(PAID)
    assert not failure.value.was_sent and server.hung_up.wait(10)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_trickles_meets_the_deadline(trickle, monkeypatch, scheme):
    proxy = trickle(OK + b"X-Long: ", b"a")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoAnswer, match="too slowly") as failure:
        client_of(f"{scheme}://fake.invalid", monkeypatch).pay(PAID)
    assert failure.value.was_sent == (scheme == "http") and proxy.hung_up.wait(10)


@pytest.fixture
def full():
    """The port of a server where nobody is let in: its queue is full."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(full.getsockname())
    yield full.getsockname()[1]
    for each in (*waiting, full):
        each.close()


def test_no_further_address_of_a_host_is_tried_after_the_deadline(monkeypatch, full):
    """A name can have hundreds of addresses where nobody answers; each may take as long as a connection may."""
    tried = []
    resolve = socket.getaddrinfo

    def many(host, port, *rest, **more):
        found = resolve("127.0.0.1", full, socket.AF_INET, socket.SOCK_STREAM)
        tried.append(host)
        return found[:1] * 200

    monkeypatch.setattr(socket, "getaddrinfo", many)
    patience = replace(SHORT, connect=0.15)
    with pytest.raises(NoAnswer, match="too slowly") as failure:
        client_of("http://many.invalid", monkeypatch, patience).pay(PAID)
    assert not failure.value.was_sent and tried


@pytest.mark.parametrize(("connect", "silence"), [(0.1, 5.0), (5.0, 0.1)])
def test_a_host_that_lets_nobody_in_is_given_up_after_the_shorter_of_two_limits(monkeypatch, full, connect, silence):
    client = client_of(f"http://127.0.0.1:{full}", monkeypatch, replace(SHORT, connect=connect, whole_answer=2))
    with pytest.raises(NoAnswer, match="no connection in time") as failure:
        client.pay(replace(PAID, timeout=silence))
    assert not failure.value.was_sent


@pytest.mark.parametrize(("of_patience", "of_the_call"), [(0.1, 5.0), (5.0, 0.1)])
def test_silence_is_given_up_after_the_shorter_of_two_limits(monkeypatch, of_patience, of_the_call):
    server = FakeServer()
    server.faults["submit"] = ["hang"]
    client = client_of(server.url, monkeypatch, replace(SHORT, silence=of_patience, whole_answer=2))
    with pytest.raises(NoAnswer, match="no answer in time"):
        client.pay(replace(PAID, timeout=of_the_call))
    server.stop()


def test_what_came_in_time_is_not_disturbed_and_connections_are_kept(monkeypatch):
    server = FakeServer()
    client = client_of(server.url, monkeypatch, replace(SHORT, whole_answer=20, whole_picture=20))
    before = threading.active_count()
    for _ in range(30):
        assert client.ask(Call("GET", f"{API}/jobs")).ok
    assert len(set(server.ports)) == 1
    client.close()
    assert threading.active_count() <= before + 2
    server.stop()


def test_a_deadline_that_has_passed_is_no_concern_of_the_next_exchange(trickle, monkeypatch):
    slow = trickle(*PHASES["a header that trickles"])
    client = client_of(f"http://127.0.0.1:{slow.port}", monkeypatch)
    with pytest.raises(NoAnswer):
        client.pay(PAID)
    assert slow.hung_up.wait(10)
    server = FakeServer()
    client._base = server.url
    assert client.ask(Call("GET", f"{API}/jobs")).ok and client.pay(PAID).status == 201
    client.close()
    server.stop()


def test_a_connection_the_server_closes_is_let_go_of(monkeypatch, trickle):
    """The second handle on it would keep it open."""
    server = FakeServer()
    client = client_of(server.url, monkeypatch, replace(SHORT, whole_answer=20))
    server.faults["list"] = [lambda handler: handler.answer(200, [], headers=[("Connection", "close")])] * 20
    for _ in range(20):
        client.ask(Call("GET", f"{API}/jobs"))
    assert len(set(server.ports)) == 20 and len(client._deadline._lines) == 0
    client.ask(Call("GET", f"{API}/jobs"))
    assert len(client._deadline._lines) == 1
    client.close()
    assert client._deadline._lines == []
    server.stop()


def test_a_connection_that_is_still_in_use_ends_with_its_client():
    ours, theirs = socket.socketpair()
    deadline = Deadline()
    deadline.watch(SimpleNamespace(sock=ours), ours)
    ours.close()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):  # the second handle keeps it open
        theirs.recv(1)
    deadline.close()
    theirs.setblocking(True)
    assert theirs.recv(1) == b""
    theirs.close()


def test_an_exchange_under_way_does_not_keep_the_process_from_ending():
    before = set(threading.enumerate())
    with Deadline().within(60):
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)


GARBAGE = [
    b"",
    b"\0" * 50,
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 200\r\n\r\n{}",
    b"HTTP/1.1 99999999999 OK\r\n\r\n",
    b"HTTP/1.1 -1 OK\r\n\r\n",
    b"HTTP/9.9 200 OK\r\n\r\n{}",
    OK + b"A" * 70000 + b"\r\n\r\n",
    OK + b"".join(b"X-%d: 1\r\n" % index for index in range(300)) + b"\r\n{}",
    OK + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
    OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    OK + b"Content-Length: nine\r\n\r\n{}",
    OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}",
    OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"5" * 70000,
    OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    OK + b"Content-Encoding: deflate, br, nonsense\r\nContent-Length: 2\r\n\r\n{}",
    OK + b"X-\xff\xfe: \x00\x01\r\nContent-Length: 2\r\n\r\n{}",
    OK + b" folded: 1\r\n: empty\r\nno colon\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: \xff\xff\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: //\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: https://a:notaport/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    b"HTTP/1.1 429 Slow\r\nRetry-After: " + b"9" * 400 + b"\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_http_ends_as_a_lost_answer_or_as_one_nobody_can_read(trickle, monkeypatch, tmp_path, garbage):
    from flux_krea.nodes.providers.contract import Answer, BadAnswer

    server = trickle(garbage, b"")
    server.stopped.set()  # sends it, and closes
    client = client_of(f"http://127.0.0.1:{server.port}", monkeypatch)
    try:
        assert isinstance(client.pay(PAID), Answer)
    except NoAnswer as lost:
        assert lost.was_sent
    except BadAnswer as refused:
        assert refused.paid is None
    with pytest.raises((Unavailable, BadAnswer)):
        client.download(f"{API}/pictures/a.png", tmp_path, "a")
    assert png() and list(tmp_path.iterdir()) == []
