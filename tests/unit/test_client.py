import base64
import socket
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from fake_provider import API, KEY, QUEUE, QUICK, FakeServer, bomb, png
from flux_krea.nodes.jobs import client as client_module
from flux_krea.nodes.jobs import picture_files
from flux_krea.nodes.jobs.client import Client, Gone, Patience
from flux_krea.nodes.providers.contract import BadAnswer, Call, RequestRefused, Unavailable, UnknownOutcome, Upload

PAID = Call("POST", f"{API}/jobs", json={"n": 1}, paid=True, timeout=0.5)


@pytest.fixture
def server():
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", server.url)
    client = Client("fake", QUEUE, KEY, patience=QUICK)
    yield client
    client.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Where the key goes


def test_the_key_goes_to_the_providers_own_host(client, server):
    assert client.answer_to(PAID).status == 201
    _, headers, _ = server.seen[0]
    assert headers["Authorization"] == f"Key {KEY}"
    assert headers["X-Forwarded-Host"] == "api.fake.example"


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/jobs",
        "https://api.fake.example:8443/jobs",
        "https://api.fake.example@elsewhere.example/jobs",
        "https://elsewhere.example\\.fake.example/jobs",
        "http://api.fake.example/jobs",
        "https://[::1/jobs",
        "file:///etc/hosts",
    ],
)
def test_the_key_goes_nowhere_else(url):
    client = Client("fake", QUEUE, KEY, patience=QUICK)
    with pytest.raises(BadAnswer) as refusal:
        client.answer_to(replace(PAID, url=url))
    assert refusal.value.paid is False


def test_calls_without_the_key_stay_without_it(client, server):
    client.answer_to(Call("POST", f"{API}/uploads", json={}, authorize=False))
    assert "Authorization" not in server.seen[0][1]


def test_an_api_call_follows_no_redirect(client, server):
    other = FakeServer()
    server.faults["submit"] = [lambda handler: handler.answer(307, {}, headers=[("Location", f"{other.url}/jobs")])]
    with pytest.raises(BadAnswer, match="redirect") as refusal:
        client.answer_to(PAID)
    other.stop()
    assert refusal.value.paid is None and other.seen == []


def test_a_password_file_is_not_read(client, server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password netrc-secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client.answer_to(Call("GET", f"{API}/jobs", authorize=False))
    assert "Authorization" not in server.seen[0][1]


def test_cookies_are_not_kept(client, server):
    server.faults["list"] = [lambda handler: handler.answer(200, [], headers=[("Set-Cookie", "a=b")])]
    client.answer_to(Call("GET", f"{API}/jobs"))
    client.answer_to(Call("GET", f"{API}/jobs"))
    assert "Cookie" not in server.seen[1][1]


def test_multipart_has_fields_and_files(client, server):
    file = Upload("image", "a.png", b"bytes")
    assert client.answer_to(Call("POST", f"{API}/uploads", form={"steps": "28"}, files=(file,))).ok
    _, headers, body = server.seen[0]
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="steps"\r\n\r\n28\r\n' in body
    assert b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nbytes\r\n' in body


def test_the_key_does_not_follow_a_redirect_of_a_free_call_either(client, server):
    other = FakeServer()
    server.faults["list"] = [lambda handler: handler.answer(302, {}, headers=[("Location", f"{other.url}/jobs")])]
    assert client.answer_to(Call("GET", f"{API}/jobs")).status == 302
    other.stop()
    assert other.seen == []


# The paid call is sent once


@pytest.mark.parametrize("fault", ["reset", "reset_after", "hang_after"])
def test_a_lost_answer_to_the_paid_call_is_an_unknown_outcome(client, server, fault):
    server.faults["submit"] = [fault] * 5
    with pytest.raises(UnknownOutcome) as lost:
        client.answer_to(PAID)
    assert lost.value.paid is None
    assert server.count("submit") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 401, 422])
def test_the_paid_call_is_not_repeated_after_an_answer(client, server, status):
    server.faults["submit"] = [status] * 5
    assert client.answer_to(PAID).status == status
    assert server.count("submit") == 1


def test_the_paid_call_waits_as_long_as_429_asks(client, server):
    pauses = []
    client._pause = pauses.append
    client._patience = replace(QUICK, rate=60)
    late = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    server.faults["submit"] = [
        lambda handler: handler.answer(429, {}, headers=[("Retry-After", "0.3")]),
        lambda handler: handler.answer(429, {"retry_after": 0.2}),
        lambda handler: handler.answer(429, {}, headers=[("Retry-After", late)]),
    ]
    assert client.answer_to(PAID).status == 201
    assert pauses[:2] == [0.3, 0.2] and 1 < pauses[2] <= 30 and server.paid == 1


def test_429_for_ever_is_handed_back_when_patience_ends(client, server):
    server.faults["submit"] = [429] * 100
    assert client.answer_to(PAID).status == 429
    assert 1 < server.count("submit") < 100 and server.paid == 0


def test_a_retry_after_beyond_patience_is_not_waited_for(client, server):
    client._pause = lambda seconds: pytest.fail(f"waited {seconds} s")
    server.faults["submit"] = [lambda handler: handler.answer(429, {}, headers=[("Retry-After", "3600")])]
    assert client.answer_to(PAID).status == 429


def test_a_refused_connection_is_repeated_and_nothing_was_paid(monkeypatch):
    marks = []
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", f"http://127.0.0.1:{free_port()}")
    client = Client("fake", QUEUE, KEY, sending=marks.append, patience=QUICK)
    with pytest.raises(Unavailable, match="connection refused") as failure:
        client.answer_to(PAID)
    assert failure.value.paid is False
    assert len(marks) >= 4 and marks[:2] == [True, False] and marks[-1] is False


def test_an_unknown_host_is_certain_not_to_have_been_paid(monkeypatch):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", "http://nowhere.invalid")
    with pytest.raises(Unavailable, match="unknown host") as failure:
        Client("fake", QUEUE, KEY, patience=QUICK).answer_to(PAID)
    assert failure.value.paid is False


def test_a_failed_tls_handshake_is_certain_not_to_have_been_paid(server, monkeypatch):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", server.url.replace("http:", "https:"))
    with pytest.raises(Unavailable, match="TLS") as failure:
        Client("fake", QUEUE, KEY, patience=QUICK).answer_to(PAID)
    assert failure.value.paid is False and server.paid == 0


def test_the_paid_call_never_uses_a_connection_kept_from_before(client, server):
    client.answer_to(Call("GET", f"{API}/jobs"))
    client.answer_to(Call("GET", f"{API}/jobs"))
    client.answer_to(PAID)
    client.answer_to(Call("GET", f"{API}/jobs"))
    first, second, paid, after = server.ports
    assert first == second != paid == after


def test_a_cut_off_answer_to_the_paid_call_is_an_unknown_outcome(client, server):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"id"')
        handler.reset()

    server.faults["submit"] = [cut]
    with pytest.raises(UnknownOutcome):
        client.answer_to(PAID)


def test_an_endless_answer_to_the_paid_call_is_an_unknown_outcome(client, server, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 2**20)
    server.faults["submit"] = [endless]
    with pytest.raises(UnknownOutcome, match="larger than"):
        client.answer_to(PAID)


# Free calls are repeated


@pytest.mark.parametrize("fault", ["reset", 502, 503, 504, 429])
def test_a_passing_fault_of_a_free_call_is_not_noticed(client, server, fault):
    server.faults["list"] = [fault, fault]
    assert client.answer_to(Call("GET", f"{API}/jobs")).status == 200


def test_a_hanging_free_call_is_repeated(client, server):
    server.faults["list"] = ["hang"]
    assert client.answer_to(Call("GET", f"{API}/jobs", timeout=0.2)).status == 200


def test_a_fault_that_stays_ends_in_an_answer_or_an_error(client, server):
    server.faults["list"] = [503] * 100
    assert client.answer_to(Call("GET", f"{API}/jobs")).status == 503
    server.faults["list"] = ["reset"] * 100
    with pytest.raises(Unavailable):
        client.answer_to(Call("GET", f"{API}/jobs"))


def test_an_answer_that_trickles_meets_its_deadline(client, server):
    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not handler.server.let_go.wait(0.05):
            handler.wfile.write(b" ")

    server.faults["list"] = [trickle] * 100
    client._patience = replace(QUICK, whole_answer=0.2)
    with pytest.raises(Unavailable, match="too slowly"):
        client.answer_to(Call("GET", f"{API}/jobs"))


def test_what_cannot_be_written_as_json_is_not_sent(client):
    with pytest.raises(RequestRefused) as failure:
        client.answer_to(replace(PAID, json={"guidance": float("nan")}))
    assert failure.value.paid is False


# Pictures


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write(png()[:33])
    while not handler.server.let_go.is_set():
        handler.wfile.write(b"\0" * 2**16)


def half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(png())))
    handler.end_headers()
    handler.wfile.write(png()[:40])
    handler.reset()


def silently_half(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(png()[:-20])
    handler.close_connection = True


PICTURE = f"{API}/pictures/a.png"


def test_a_picture_lands_on_disk_complete_and_measured(client, server, tmp_path):
    server.picture = png(12, 7)
    picture = client.download(PICTURE, tmp_path, "job-0")
    assert (picture.width, picture.height, picture.read()) == (12, 7, png(12, 7))
    assert [path.name for path in tmp_path.iterdir()] == ["job-0.png"]
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize("fault", [half, silently_half, 500, 429, 404, "reset"])
def test_a_passing_fault_of_a_download_is_not_noticed(client, server, tmp_path, fault):
    server.faults["picture"] = [fault]
    assert client.download(PICTURE, tmp_path, "a").read() == png()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("html", "a web page"),
        (lambda handler: handler.answer(200, {"detail": "x" * 40}), "JSON"),
        (lambda handler: handler.answer(200, b""), "an empty file"),
        (lambda handler: handler.answer(200, b"\x07garbage" * 9), "unknown content"),
        (lambda handler: handler.answer(200, png()[:8] + b"garbage" * 9 + b"IEND"), "damaged"),
        (lambda handler: handler.answer(200, bomb(9000)), "9000×9000"),
        (lambda handler: handler.answer(200, bomb(20000)), "megapixels"),
        (endless, "larger than"),
        (418, "answered 418"),
    ],
)
def test_what_is_no_picture_is_refused_at_once(client, server, tmp_path, monkeypatch, fault, message):
    monkeypatch.setattr(picture_files, "MAX_BYTES", 2**20)
    server.faults["picture"] = [fault] * 5
    with pytest.raises(BadAnswer, match=message) as refusal:
        client.download(PICTURE, tmp_path, "a")
    assert refusal.value.paid is True
    assert server.count("picture") == 1 and list(tmp_path.iterdir()) == []


def test_a_length_announced_above_the_cap_is_refused_unread(client, server, tmp_path):
    def huge(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(2**40))
        handler.end_headers()

    server.faults["picture"] = [huge]
    with pytest.raises(BadAnswer, match="64 MB"):
        client.download(PICTURE, tmp_path, "a")


def test_a_picture_that_is_gone_is_said_to_be(client, server, tmp_path):
    server.faults["picture"] = [410] * 100
    with pytest.raises(Gone):
        client.download(PICTURE, tmp_path, "a")


def test_a_picture_may_be_redirected_but_the_key_is_not(client, server, tmp_path, monkeypatch):
    def elsewhere(handler):
        handler.answer(302, b"", headers=[("Location", f"{server.url}/pictures/b.png")])

    server.faults["picture"] = [elsewhere]
    assert client.download(PICTURE, tmp_path, "a").read() == png()
    assert all("Authorization" not in headers for _, headers, _ in server.seen)


def test_a_picture_never_comes_over_plain_http_from_elsewhere(client, server, tmp_path):
    other = FakeServer()
    server.faults["picture"] = [
        lambda handler: handler.answer(302, b"", headers=[("Location", f"{other.url}/pictures/b.png")])
    ]
    with pytest.raises(BadAnswer, match="not https"):
        client.download(PICTURE, tmp_path, "a")
    other.stop()
    assert other.seen == []


def test_redirects_in_a_circle_end(client, server, tmp_path):
    server.faults["picture"] = [lambda handler: handler.answer(302, b"", headers=[("Location", PICTURE)])] * 50
    with pytest.raises(BadAnswer, match="redirected"):
        client.download(PICTURE, tmp_path, "a")


def test_a_providers_own_host_gets_the_key_for_a_picture_when_it_asks(client, server, tmp_path):
    server.faults["picture"] = [403]
    client.download(PICTURE, tmp_path, "a")
    assert ["Authorization" in headers for _, headers, _ in server.seen] == [False, True]


def test_a_picture_as_text_is_stored_and_damaged_text_refused(client, tmp_path):
    text = "data:image/webp;base64," + base64.b64encode(png()).decode()
    assert client.download(text, tmp_path, "a").path.endswith("a.png")
    for broken in (text[:60], text[:-30], "data:image/png,abc", text + "*"):
        with pytest.raises(BadAnswer):
            client.download(broken, tmp_path, "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_threads_can_download_side_by_side(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", server.url)

    def fetch(index):
        Client("fake", QUEUE, KEY, patience=QUICK).download(PICTURE, tmp_path, str(index))

    threads = [threading.Thread(target=fetch, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.glob("*.png"))) == 8


@pytest.mark.parametrize(
    "text, fault, pause", [("2", 2.0, 0.25), ("", 30.0, 8.0), ("soon", 30.0, 8.0), ("-1", 30.0, 8.0)]
)
def test_patience_can_be_shortened_by_the_servers_environment_only(monkeypatch, text, fault, pause):
    monkeypatch.setenv("FLUX_KREA_PATIENCE_SECONDS", text)
    patience = Patience.of_operator()
    assert (patience.fault, patience.longest_pause) == (fault, pause)


def test_the_paid_call_is_sent_again_where_the_provider_says_that_it_took_nothing(client, server):
    client._provider = replace(client._provider, declined=lambda answer: answer.status == 503)
    server.faults["submit"] = [503]
    assert client.answer_to(PAID).ok and server.paid == 1
