import base64
import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from fake_provider import API, KEY, PROVIDERS, QUEUE, QUICK, FakeServer, bomb, png
from flux_krea.nodes.jobs import picture_files
from flux_krea.nodes.jobs.client import Backoff, Client, Gone, NoAnswer, Patience, Stopped
from flux_krea.nodes.jobs.keys import Keys
from flux_krea.nodes.providers.contract import Answer, BadAnswer, Call, RequestRefused, Unavailable, Upload

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


@pytest.mark.parametrize("host", ["api.fake.example", "API.fake.example", "api.fake.example:443"])
def test_the_key_goes_to_the_providers_own_host(client, server, host):
    assert client.pay(replace(PAID, url=f"https://{host}/jobs")).status == 201
    _, headers, _ = server.seen[0]
    assert headers["Authorization"] == f"Key {KEY}"
    assert headers["X-Forwarded-Host"] == "api.fake.example"


def test_the_address_that_stands_in_for_a_provider_is_its_own_too(client, server):
    assert client.pay(replace(PAID, url=f"{server.url}/jobs")).status == 201
    _, headers, _ = server.seen[0]
    assert headers["Authorization"] == f"Key {KEY}" and "X-Forwarded-Host" not in headers


NOT_ITS_OWN = [
    "https://elsewhere.example/jobs",
    "https://api.fake.example:8443/jobs",
    "https://api.fake.example:444/jobs",
    "https://api.fake.example:0/jobs",
    "https://api.fake.example:port/jobs",
    "https://api.fake.example@elsewhere.example/jobs",
    "https://me@api.fake.example/jobs",
    "https://elsewhere.example\\.fake.example/jobs",
    "https://api.fake.example/jobs\\",
    "https://[::1/jobs",
    "file:///etc/hosts",
]


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("", "http://api.fake.example/jobs"),
        *[("", url) for url in NOT_ITS_OWN],
        *[("http://127.0.0.1:9", url) for url in NOT_ITS_OWN],
    ],
)
def test_the_key_goes_nowhere_else(monkeypatch, base, url):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", base)
    client = Client("fake", QUEUE, KEY, patience=QUICK)
    with pytest.raises(BadAnswer) as refusal:
        client.pay(replace(PAID, url=url))
    assert refusal.value.paid is False


def test_calls_without_the_key_stay_without_it(client, server):
    client.ask(Call("POST", f"{API}/uploads", json={}, authorize=False))
    assert "Authorization" not in server.seen[0][1]


def test_an_api_call_follows_no_redirect(client, server):
    other = FakeServer()
    server.faults["submit"] = [lambda handler: handler.answer(307, {}, headers=[("Location", f"{other.url}/jobs")])]
    with pytest.raises(BadAnswer, match="redirect") as refusal:
        client.pay(PAID)
    other.stop()
    assert refusal.value.paid is None and other.seen == []


def test_a_password_file_is_not_read(client, server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password netrc-secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client.ask(Call("GET", f"{API}/jobs", authorize=False))
    assert "Authorization" not in server.seen[0][1]


def test_cookies_are_not_kept(client, server):
    server.faults["list"] = [lambda handler: handler.answer(200, [], headers=[("Set-Cookie", "a=b")])]
    client.ask(Call("GET", f"{API}/jobs"))
    client.ask(Call("GET", f"{API}/jobs"))
    assert "Cookie" not in server.seen[1][1]


def test_no_answer_is_asked_for_packed(client, server):
    client.ask(Call("GET", f"{API}/jobs"))
    assert server.seen[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(("size", "is_read"), [(2**20, True), (2**20 + 1, False)])
def test_an_answer_of_more_than_a_megabyte_is_read_only_where_the_call_expects_one(client, server, size, is_read):
    body = b"[" + b" " * (size - 2) + b"]"
    server.faults["list"] = [lambda handler: handler.answer(200, body)] * 50
    if is_read:
        assert client.ask(Call("GET", f"{API}/jobs")).json() == []
        return
    with pytest.raises(Unavailable, match="larger than 1 MB"):
        client.ask(Call("GET", f"{API}/jobs"))
    assert client.ask(Call("GET", f"{API}/jobs", max_answer=2**21)).json() == []


def test_multipart_has_fields_and_files(client, server):
    file = Upload("image", "a.png", b"bytes")
    assert client.ask(Call("POST", f"{API}/uploads", form={"steps": "28"}, files=(file,))).ok
    _, headers, body = server.seen[0]
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="steps"\r\n\r\n28\r\n' in body
    assert b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nbytes\r\n' in body


def test_the_key_does_not_follow_a_redirect_of_a_free_call_either(client, server):
    other = FakeServer()
    server.faults["list"] = [lambda handler: handler.answer(302, {}, headers=[("Location", f"{other.url}/jobs")])]
    assert client.ask(Call("GET", f"{API}/jobs")).status == 302
    other.stop()
    assert other.seen == []


# The paid call is sent once


def hang_up(handler):
    handler.close_connection = True


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset", "connection reset"),
        ("reset_after", "connection reset"),
        ("hang_after", "no answer in time"),
        (hang_up, "connection closed without an answer"),
    ],
)
def test_a_lost_answer_to_the_paid_call_may_have_been_accepted(client, server, fault, reason):
    server.faults["submit"] = [fault] * 5
    with pytest.raises(NoAnswer, match=f"^{reason}$") as lost:
        client.pay(PAID)
    assert lost.value.was_sent and server.count("submit") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 401, 422])
def test_the_paid_call_is_not_repeated_after_an_answer(client, server, status):
    server.faults["submit"] = [status] * 5
    assert client.pay(PAID).status == status
    assert server.count("submit") == 1


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "0.3"}, {}, 0.3),
        ({}, {"retry_after": 0.2}, 0.2),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT", "date": "Mon, 21 Sep 2026 14:13:20 GMT"}, {}, 30.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, {}, 0.0),
        ({"retry-after": "soon"}, {}, 0.0),
        ({"retry-after": "86400"}, {}, 86400.0),
    ],
)
def test_a_provider_says_how_long_it_wants_to_be_left_alone(client, headers, body, seconds):
    assert client.asked_pause(Answer(429, headers, json.dumps(body).encode())) == seconds


def test_pauses_grow_until_patience_ends_and_three_tries_are_made_in_any_case():
    backoff = Backoff(replace(QUICK, first_pause=0.02, longest_pause=0.05))
    assert [backoff.next(10.0) for _ in range(3)] == [0.02, 0.04, 0.05]
    assert backoff.next(10.0, asked=3.0) == 3.0 and backoff.next(10.0, asked=3600.0) is None
    hasty = Backoff(QUICK)
    assert hasty.next(0.0) is None


@pytest.mark.parametrize(
    ("passed", "limit", "pauses"),
    [
        (0.0, 3.0, [1.0, 1.0, 1.0, None]),  # the pauses alone
        (7.0, 8.0, [1.0, 1.0, 1.0]),
        (7.5, 8.0, [1.0, 1.0, None]),
        (500.0, 8.0, [1.0, 1.0, None]),  # one call that hung
    ],
)
def test_patience_is_for_the_pauses_and_for_what_the_calls_take(monkeypatch, passed, limit, pauses):
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    backoff = Backoff(Patience(first_pause=1.0, longest_pause=1.0))
    monkeypatch.setattr("time.monotonic", lambda: 1000.0 + passed)
    assert [backoff.next(limit) for _ in pauses] == pauses


def test_a_free_call_nobody_waits_for_is_not_repeated(client, server):
    server.faults["list"] = ["reset"] * 100
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        client.ask(Call("GET", f"{API}/jobs"), stop)
    assert server.count("list") == 1


@pytest.mark.parametrize(
    ("base", "reason"), [("refused", "connection refused"), ("http://nowhere.invalid", "unknown host"), ("tls", "TLS")]
)
def test_what_never_reached_the_provider_was_certainly_not_paid(server, monkeypatch, base, reason):
    address = {"refused": f"http://127.0.0.1:{free_port()}", "tls": server.url.replace("http:", "https:")}.get(
        base, base
    )
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", address)
    with pytest.raises(NoAnswer, match=reason) as failure:
        Client("fake", QUEUE, KEY, patience=QUICK).pay(PAID)
    assert not failure.value.was_sent and server.paid == 0


def test_an_answer_holds_no_key_whatever_it_was_split_or_written_in(server, monkeypatch):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", server.url)
    monkeypatch.setenv("FAKE_KEY", KEY)
    encoded = [base64.b64encode(front + KEY.encode() + b"!").decode() for front in (b"", b"K", b"Ke", b"Key ")]
    written = [KEY, " ".join(KEY), KEY[:7] + "\n" + KEY[7:], *encoded]
    client = Client("fake", QUEUE, KEY, QUICK, Keys(Path("nowhere"), PROVIDERS).without_keys)
    for echo in written:
        server.faults["list"] = [lambda handler, echo=echo: handler.answer(422, {"detail": "x" * 250 + echo})]
        body = client.ask(Call("GET", f"{API}/jobs")).body
        assert b"[hidden]" in body and len(body) < 290, echo


def test_the_paid_call_never_uses_a_connection_kept_from_before(client, server):
    client.ask(Call("GET", f"{API}/jobs"))
    client.ask(Call("GET", f"{API}/jobs"))
    client.pay(PAID)
    client.ask(Call("GET", f"{API}/jobs"))
    first, second, paid, after = server.ports
    assert first == second != paid == after


def test_a_cut_off_answer_to_the_paid_call_may_have_been_accepted(client, server):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"id"')
        handler.reset()

    server.faults["submit"] = [cut]
    with pytest.raises(NoAnswer) as lost:
        client.pay(PAID)
    assert lost.value.was_sent


def test_an_endless_answer_to_the_paid_call_may_have_been_accepted(client, server):
    server.faults["submit"] = [endless]
    with pytest.raises(NoAnswer, match="larger than") as lost:
        client.pay(PAID)
    assert lost.value.was_sent


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.exceptions.ProxyError(f"http://me:{KEY}@proxy"), "the proxy cannot be reached"),
        (requests.exceptions.SSLError(f"https://{KEY}"), r"no safe connection \(TLS\)"),
        (OSError(f"[Errno 11001] getaddrinfo failed for {KEY}"), "unknown host"),
        (requests.exceptions.ChunkedEncodingError(KEY), r"the connection failed \(ChunkedEncodingError\)"),
    ],
)
def test_a_fault_is_said_in_words_of_our_own(client, monkeypatch, error, reason):
    def fail(*arguments, **values):
        raise error

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", fail)
    with pytest.raises(NoAnswer, match=f"^{reason}$") as failure:
        client.pay(PAID)
    assert failure.value.was_sent is False


# Free calls are repeated


@pytest.mark.parametrize("fault", ["reset", 502, 503, 504, 429])
def test_a_passing_fault_of_a_free_call_is_not_noticed(client, server, fault):
    server.faults["list"] = [fault, fault]
    assert client.ask(Call("GET", f"{API}/jobs")).status == 200


def asking_to_wait(status, seconds):
    return lambda handler: handler.answer(status, {}, headers=[("Retry-After", seconds)])


@pytest.mark.parametrize(
    ("faults", "pauses", "status"),
    [
        (["reset", 503, "reset"], [0.02, 0.04, 0.08], 200),
        ([asking_to_wait(503, "0.3"), 502], [0.3, 0.04], 200),
        ([asking_to_wait(429, "0.7")], [0.7], 200),  # for a rate there is more patience than for a fault
        ([asking_to_wait(503, "0.7")], [], 503),
        ([asking_to_wait(429, "0.9")], [], 429),
        ([418], [], 418),
    ],
)
def test_a_free_call_is_repeated_after_pauses_that_grow_and_as_it_is_asked(client, server, faults, pauses, status):
    waited, stop = [], threading.Event()
    stop.wait = waited.append
    server.faults["list"] = faults
    assert client.ask(Call("GET", f"{API}/jobs"), stop).status == status
    assert waited == pauses and server.count("list") == len(pauses) + 1


@pytest.mark.parametrize("status", [429, 503])
def test_who_wants_every_answer_gets_it_at_once_and_still_a_repetition_where_none_came(client, server, status):
    server.faults["list"] = ["reset", status]
    assert client.ask(Call("GET", f"{API}/jobs"), repeat_statuses=False).status == status
    assert server.count("list") == 2


def test_a_hanging_free_call_is_repeated(client, server):
    server.faults["list"] = ["hang"]
    assert client.ask(Call("GET", f"{API}/jobs", timeout=0.2)).status == 200


def test_a_fault_that_stays_ends_in_an_answer_or_an_error(client, server):
    server.faults["list"] = [503] * 100
    assert client.ask(Call("GET", f"{API}/jobs")).status == 503
    server.faults["list"] = ["reset"] * 100
    with pytest.raises(Unavailable):
        client.ask(Call("GET", f"{API}/jobs"))


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
        client.ask(Call("GET", f"{API}/jobs"))


def test_what_cannot_be_written_as_json_is_not_sent(client):
    with pytest.raises(RequestRefused) as failure:
        client.pay(replace(PAID, json={"guidance": float("nan")}))
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


@pytest.mark.parametrize("fault", [half, silently_half, 408, 425, 429, 500, 502, 404, "reset"])
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


@pytest.mark.parametrize("side, message", [(9000, "9000×9000"), (20000, "20000×20000|170 megapixels")])
def test_a_picture_too_large_to_decode_is_refused_at_once_and_kept(client, server, tmp_path, side, message):
    server.picture = bomb(side)
    with pytest.raises(BadAnswer, match=message) as refusal:
        client.download(PICTURE, tmp_path, "a")
    assert refusal.value.paid is True and str(tmp_path / "a-refused.png") in str(refusal.value)
    assert server.count("picture") == 1 and (tmp_path / "a-refused.png").read_bytes() == bomb(side)


@pytest.mark.parametrize("length", ["9" * 5000, "٣", "-1", "1e3", ""])
def test_a_length_that_nobody_can_read_is_not_read(client, server, tmp_path, length):
    """The picture then comes whole, or not at all; never an error of another kind."""
    content = png()

    def announce(handler):
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        handler.wfile.write(head.encode() + content)
        handler.close_connection = True

    server.faults["picture"] = [announce] * 9
    try:
        assert client.download(PICTURE, tmp_path, "a").read() == content
    except (BadAnswer, Unavailable) as refusal:
        assert refusal.paid is True


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


def redirect(url):
    return lambda handler: handler.answer(302, b"", headers=[("Location", url)])


def test_three_redirects_are_followed_and_a_circle_ends(client, server, tmp_path):
    server.faults["picture"] = [redirect(PICTURE)] * 3
    assert client.download(PICTURE, tmp_path, "a").read() == png()
    server.faults["picture"] = [redirect(PICTURE)] * 4
    with pytest.raises(BadAnswer, match="redirected more than 3 times") as refusal:
        client.download(PICTURE, tmp_path, "b")
    assert refusal.value.paid is True and server.count("picture") == 8


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("is_named_by_base", [True, False])
def test_a_providers_own_host_gets_the_key_for_a_picture_when_it_asks(
    client, server, tmp_path, status, is_named_by_base
):
    server.faults["picture"] = [status]
    client.download(f"{server.url}/pictures/a.png" if is_named_by_base else PICTURE, tmp_path, "a")
    assert ["Authorization" in headers for _, headers, _ in server.seen] == [False, True]


def test_a_picture_as_text_is_stored_and_damaged_text_refused(client, tmp_path):
    text = "data:image/webp;base64," + base64.b64encode(png()).decode()
    assert client.download(text, tmp_path, "a").path.endswith("a.png")
    cut_off = "data:image/png;base64," + base64.b64encode(png()[:-20]).decode()
    for broken in (text[:60], text[:-30], "data:image/png,abc", text + "*", cut_off):
        with pytest.raises(BadAnswer) as refusal:
            client.download(broken, tmp_path, "b")
        assert refusal.value.paid is True
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


@pytest.mark.parametrize(("text", "longest", "pause"), [("2", 2.0, 0.25), (" 0.8 ", 0.8, 0.1)])
def test_patience_can_be_shortened_by_the_servers_environment_only(monkeypatch, text, longest, pause):
    monkeypatch.setenv("FLUX_KREA_PATIENCE_SECONDS", text)
    assert Patience.of_operator() == Patience(
        *[longest] * 7, between_polls=pause, first_pause=pause, longest_pause=pause
    )


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "nan", "inf", "1e9"])
def test_what_shortens_nothing_leaves_the_packs_own_patience(monkeypatch, text):
    monkeypatch.setenv("FLUX_KREA_PATIENCE_SECONDS", text)
    assert Patience.of_operator() == Patience()
