"""An answer that is paid and long: it arrives whole, in little memory, and is never thrown away."""

import base64
import errno
import json
import os
import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from fake_provider import API, BLOCKING, KEY, PROVIDERS, QUICK, FakeServer, asked, png
from flux_krea.nodes.jobs import answer_files
from flux_krea.nodes.jobs.client import Client, NoAnswer, Patience
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.jobs.keys import Keys
from flux_krea.nodes.providers import lumenfall
from flux_krea.nodes.providers.contract import BadAnswer, Call, GenerationRequest, UnknownOutcome

PAID = Call("POST", f"{API}/jobs", json={"n": 1}, paid=True, max_answer=2**30)


def heavy(megabytes, mark=0):
    """A true picture of about so many megabytes: the rest is a chunk that nobody reads."""
    content, size = png(), round(megabytes * 2**20)
    filler = os.urandom(4096) * (size // 4096) + bytes([mark])
    chunk = struct.pack(">I", len(filler)) + b"krEa" + filler + struct.pack(">I", zlib.crc32(b"krEa" + filler))
    return content[:33] + chunk + content[33:]


@pytest.fixture
def server(monkeypatch):
    server = FakeServer()
    for name in ("FAKE", "LUMENFALL"):
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name}", server.url)
    monkeypatch.setenv("FAKE_KEY", KEY)
    monkeypatch.setenv("LUMENFALL_API_KEY", "lmnfl_test.secret-of-the-tests")
    yield server
    server.stop()


def client_in(folder, hide=lambda content: content):
    return Client("fake", BLOCKING, KEY, replace(QUICK, whole_answer=60), hide, folder)


def test_eight_pictures_in_an_answer_of_40_mb_arrive_whole_and_leave_nothing_else(server, tmp_path, monkeypatch):
    pictures = [heavy(3.75, mark) for mark in range(8)]
    body = json.dumps({"data": [{"b64_json": base64.b64encode(each).decode()} for each in pictures]}).encode()
    assert len(body) > 40_000_000
    monkeypatch.setattr(
        "fake_provider.Handler.do_POST", lambda handler: (handler.begin("submit"), handler.answer(200, body))
    )
    patience = replace(QUICK, whole_answer=120)
    jobs = Jobs(tmp_path, tmp_path / "pictures", {"lumenfall": lumenfall.PROVIDER}, patience)
    request = GenerationRequest("a fox", seed=7, images=8, extra={"response_format": "b64_json"})
    tracemalloc.start()
    result = jobs.start("lumenfall", request).result(120)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [picture.read() for picture in result.pictures] == pictures
    assert not list(tmp_path.glob("pictures/answer*")) and len(list(tmp_path.glob("pictures/*.png"))) == 8
    assert peak < 2.25 * len(body), peak / len(body)
    jobs.close()


def answering(server, body, headers=(), broken=False):
    def fault(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) + (1000 if broken else 0)))
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        if broken:
            handler.close_connection = True
            handler.connection.close()

    server.faults["submit"] = [fault]


def kept_file(error) -> Path:
    return Path(re.search(r"kept as (\S+?\.(?:json|txt))", str(error)).group(1))


@pytest.mark.parametrize("size", [1000, 6 * 2**20])
def test_an_answer_that_broke_off_is_kept_and_named(server, tmp_path, size):
    body = b'{"data": "' + b"A" * size
    answering(server, body, broken=True)
    with pytest.raises(NoAnswer, match="broke off") as lost:
        client_in(tmp_path).pay(PAID)
    assert lost.value.was_sent and kept_file(lost.value).read_bytes() == body


@pytest.mark.parametrize("size", [1000, 6 * 2**20])
def test_an_answer_that_is_no_json_is_kept_and_named(server, tmp_path, size):
    body = b'{"data": "' + b"A" * size
    answering(server, body)
    with pytest.raises(NoAnswer, match="not JSON") as lost:
        client_in(tmp_path).pay(PAID)
    assert kept_file(lost.value).read_bytes() == body


def test_an_answer_of_which_nothing_came_is_no_file(server, tmp_path):
    answering(server, b"", broken=True)
    with pytest.raises(NoAnswer, match="^the answer broke off$"):
        client_in(tmp_path).pay(PAID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [0, 1])
def test_what_may_not_be_long_is_not_kept(server, tmp_path, more):
    answering(server, b'{"data": "A')
    call = replace(PAID, max_answer=answer_files.IN_MEMORY + more)
    if not more:
        assert client_in(tmp_path).pay(call).json() is None and list(tmp_path.iterdir()) == []
        return
    with pytest.raises(NoAnswer, match="not JSON; what came of it is kept as"):
        client_in(tmp_path).pay(call)


def test_an_answer_that_is_longer_than_it_may_be_is_kept_as_far_as_it_was_read(server, tmp_path):
    answering(server, b"[" + b" " * 6 * 2**20)
    with pytest.raises(NoAnswer, match="larger than 5 MB.*kept as") as lost:
        client_in(tmp_path).pay(replace(PAID, max_answer=5 * 2**20))
    assert kept_file(lost.value).stat().st_size > 5 * 2**20


def test_what_is_no_paid_answer_leaves_no_file(server, tmp_path):
    server.faults["submit"] = [lambda handler: handler.answer(500, b"x" * 6 * 2**20)]
    assert client_in(tmp_path).pay(PAID).status == 500
    server.faults["submit"] = [lambda handler: handler.answer(200, b"x" * 2**19)]
    assert client_in(tmp_path).pay(replace(PAID, max_answer=2**20)).json() is None
    server.faults["list"] = [lambda handler: handler.answer(200, b"x" * 6 * 2**20)]
    assert client_in(tmp_path).ask(Call("GET", f"{API}/jobs", max_answer=2**30)).ok
    assert list(tmp_path.iterdir()) == []


def test_a_long_answer_holds_no_key_in_memory_or_on_the_disk(server, tmp_path):
    body = json.dumps({"echo": f"Bearer {KEY}", "data": "A" * 6 * 2**20, "also": KEY}).encode()
    answering(server, body, headers=[("X-Echo", KEY)])
    client = client_in(tmp_path, Keys(Path("nowhere"), PROVIDERS).without_keys)
    answer = client.pay(PAID)
    (path,) = tmp_path.glob("answer*")
    assert KEY.encode() not in answer.body + path.read_bytes() and KEY not in str(answer.headers)
    assert answer.json() == {"echo": "Bearer [hidden]", "data": "A" * 6 * 2**20, "also": "[hidden]"}
    assert 0 < len(answer.body) < 2**20 and path.read_bytes().startswith(answer.body)
    client.drop_answer()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1000, 6 * 2**20])
def test_an_answer_that_broke_off_is_kept_without_the_key(server, tmp_path, size):
    answering(server, f'{{"echo": "Bearer {KEY}", "data": "'.encode() + b"A" * size, broken=True)
    with pytest.raises(NoAnswer, match="broke off") as lost:
        client_in(tmp_path, Keys(Path("nowhere"), PROVIDERS).without_keys).pay(PAID)
    assert kept_file(lost.value).read_bytes() == b'{"echo": "Bearer [hidden]", "data": "' + b"A" * size


def test_an_answer_nobody_used_stays_and_the_log_says_where(server, tmp_path, caplog):
    answering(server, json.dumps({"nothing": "A" * 6 * 2**20}).encode())
    client = client_in(tmp_path)
    client.pay(PAID)
    client.close()
    (path,) = tmp_path.glob("answer*")
    assert str(path) in caplog.text


@pytest.mark.parametrize("room", [0, 3 * 2**20, 5 * 2**20])
def test_without_room_on_the_disk_an_answer_is_kept_in_memory(server, tmp_path, monkeypatch, room):
    body = json.dumps({"data": "A" * 8 * 2**20}).encode()

    class Full:
        """A file on a disk with so much room."""

        def __init__(self, path, mode, buffering):
            self.file, self.left = io_open(path, mode, buffering=buffering), room

        def write(self, content):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(content[: self.left])
            self.left -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    io_open = open
    monkeypatch.setattr(answer_files, "open", Full, raising=False)
    answering(server, body)
    answer = client_in(tmp_path).pay(PAID)
    assert answer.body == body and answer.json() == json.loads(body)
    assert list(tmp_path.iterdir()) == []


def test_one_damaged_picture_among_several_is_kept_named_and_never_paid_again(server, tmp_path, monkeypatch):
    good = "data:image/png;base64," + base64.b64encode(png()).decode()
    for name in PROVIDERS:
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name.upper()}", server.url)
    server.result = lambda job: {"id": job["id"], "status": "done", "seed": 1, "pictures": [good, good[:-30] + "*"]}
    jobs = Jobs(tmp_path, tmp_path / "pictures", PROVIDERS, QUICK)
    for _ in range(2):
        with pytest.raises(BadAnswer, match="base64.*-1-unreadable.txt.*No run can collect it") as refusal:
            jobs.start("blocking", asked()).result(20)
    assert good[:-30] in kept_file(refusal.value).read_text()
    assert refusal.value.paid is True and server.paid == 1
    assert [path.read_bytes() for path in tmp_path.glob("pictures/*-0.png")] == [png()]
    jobs.close()


def test_a_lost_long_answer_is_said_on_the_node_with_its_file(server, tmp_path, monkeypatch):
    answering(server, b'{"data": [{"b64_json": "' + b"A" * 6 * 2**20, broken=True)
    monkeypatch.setattr(
        "fake_provider.Handler.do_POST",
        lambda handler: (handler.begin("submit"), handler.next_fault("submit")(handler)),
    )
    jobs = Jobs(tmp_path, tmp_path / "pictures", {"lumenfall": lumenfall.PROVIDER}, replace(QUICK, whole_answer=60))
    with pytest.raises(UnknownOutcome) as lost:
        jobs.start("lumenfall", GenerationRequest("a fox", seed=7)).result(30)
    assert kept_file(lost.value).parent == tmp_path / "pictures"
    jobs.close()


def test_patience_for_a_whole_answer_is_longer_than_a_blocking_provider_may_be_silent():
    assert Patience().whole_answer >= lumenfall.TIMEOUT
