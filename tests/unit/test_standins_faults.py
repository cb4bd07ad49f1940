"""The stand-in providers break exactly as asked."""

import http.client
import io
import json
import socket
import time

import pytest
import requests
from PIL import Image
from standins import PROVIDERS, Standin, start_all
from standins.plain_client import AUTH, KREA, body_of, call, finished, local, submit


@pytest.fixture(scope="module")
def running():
    with start_all() as standins:
        yield standins


@pytest.fixture(autouse=True)
def fresh(running):
    for standin in running.values():
        standin.reset()


# Faults


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("status", [401, 402, 403, 422, 429, 500])
def test_a_status_fault_answers_in_the_providers_words_and_accepts_nothing(running, name, status):
    running[name].fault("submit", "status", status=status, retry_after=3)
    reply = submit(running[name])
    assert (reply.status_code, reply.headers["Retry-After"]) == (status, "3")
    assert running[name].state()["accepted"] == 0
    assert submit(running[name]).ok


def test_fals_403_tells_of_the_balance_and_replicates_429_of_the_wait(running):
    running["fal"].fault("submit", "status", status=403)
    assert "Exhausted balance" in submit(running["fal"]).json()["detail"]
    running["replicate"].fault("submit", "status", status=429)
    assert submit(running["replicate"]).json()["retry_after"] == 1


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(("kind", "accepted"), [("reset_before", 0), ("reset_after", 1), ("reset_mid_body", 1)])
def test_a_reset_breaks_the_connection_before_or_after_the_job_is_taken(running, name, kind, accepted):
    running[name].fault("submit", kind)
    with pytest.raises(requests.RequestException):
        submit(running[name])
    assert running[name].state()["accepted"] == accepted


def test_a_reset_is_a_real_rst_and_not_a_polite_close(running):
    running["one_min"].fault("account", "reset_before")
    with socket.create_connection(
        ("127.0.0.1", int(running["one_min"].base_url.rsplit(":", 1)[1])), timeout=5
    ) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_faults_count_and_choose_by_prompt(running):
    standin = running["fal"]
    standin.fault("submit", "status", count=2)
    assert [submit(standin).status_code for _ in range(3)] == [500, 500, 200]
    standin.fault("submit", "html", count="always", prompt="a dog")
    assert [submit(standin, prompt=prompt).status_code for prompt in ("a dog", "a cat", "a dog")] == [502, 200, 502]
    standin.reset()
    standin.fault("submit", "status", after=True)
    assert submit(standin).status_code == 500 and standin.state()["accepted"] == 1


def test_answers_can_be_malformed_of_the_wrong_type_or_in_an_unknown_state(running):
    standin = running["replicate"]
    job = submit(standin).json()
    path = local(job["urls"]["get"])
    for kind in ("malformed", "wrong_type", "unknown_status", "missing"):
        standin.fault("poll", kind, **({"field": "status"} if kind == "missing" else {}))
    with pytest.raises(ValueError):
        call(standin, "GET", path).json()
    assert call(standin, "GET", path).json() == []
    assert call(standin, "GET", path).json()["status"] == "PONDERING"
    assert "status" not in call(standin, "GET", path).json()
    assert call(standin, "GET", path).json()["id"] == job["id"]
    running["one_min"].fault("submit", "unknown_status")
    assert submit(running["one_min"]).json()["aiRecord"]["status"] == "PONDERING"


def test_a_hang_is_honoured_late_and_holds_up_nobody_else(running):
    standin = running["fal"]
    standin.fault("submit", "hang", seconds=0.4)
    with pytest.raises(requests.Timeout):
        requests.post(standin.base_url + KREA, json=body_of("fal"), headers=AUTH["fal"], timeout=0.05)
    assert submit(standin).status_code == 200
    assert standin.state()["accepted"] == 1
    deadline = time.time() + 5
    while standin.state()["accepted"] < 2 and time.time() < deadline:
        time.sleep(0.02)
    assert standin.state()["accepted"] == 2


def test_a_black_hole_lasts_until_the_server_closes():
    standin = Standin("fal")
    standin.fault("submit", "black_hole")
    with socket.create_connection(("127.0.0.1", int(standin.base_url.rsplit(":", 1)[1])), timeout=5) as connection:
        body = json.dumps(body_of("fal")).encode()
        head = (
            f"POST {KREA} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        standin.close()
        connection.settimeout(5)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
    assert standin.state()["accepted"] == 0


@pytest.fixture
def picture(running):
    """The address of a finished fal picture."""
    result = finished(
        running["fal"], submit(running["fal"], image_size={"width": 64, "height": 32}, output_format="png")
    )
    return result.json()["images"][0]["url"]


@pytest.mark.parametrize(
    ("kind", "options", "status"),
    [
        ("status", {"status": 404}, 404),
        ("status", {}, 500),
        ("expired", {}, 403),
        ("html", {"status": 200}, 200),
        ("garbage", {}, 200),
    ],
)
def test_a_picture_can_be_anything_but_a_picture(running, picture, kind, options, status):
    running["fal"].fault("picture", kind, **options)
    reply = requests.get(picture, timeout=10)
    assert reply.status_code == status
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(reply.content))
    assert Image.open(io.BytesIO(requests.get(picture, timeout=10).content)).size == (64, 32)


@pytest.mark.parametrize(("kind", "side"), [("bomb_header", 20000), ("bomb", 13000)])
def test_a_picture_bomb_is_small_on_the_wire_and_giant_in_its_header(running, picture, kind, side, recwarn):
    running["fal"].fault("picture", kind)
    data = requests.get(picture, timeout=10).content
    assert len(data) < 100_000 and data[16:24] == side.to_bytes(4, "big") * 2


@pytest.mark.parametrize("kind", ["huge", "endless"])
def test_a_picture_can_be_far_too_long(running, picture, kind):
    running["fal"].fault("picture", kind)
    with requests.get(picture, stream=True, timeout=10) as reply:
        assert reply.headers.get("Content-Length") == {"huge": "104000000", "endless": None}[kind]
        taken = 0
        for piece in reply.iter_content(1 << 20):
            taken += len(piece)
            if taken > 8_000_000:
                break
    assert taken > 8_000_000


def test_a_slow_picture_trickles_and_a_reset_one_breaks_off(running, picture):
    running["fal"].fault("picture", "slow", seconds=0.2)
    connection = http.client.HTTPConnection(picture.split("/")[2], timeout=10)
    connection.request("GET", local(picture))
    reply = connection.getresponse()
    first = reply.read1(1 << 20)
    assert 0 < len(first) < int(reply.headers["Content-Length"]) == len(first) + len(reply.read())
    connection.close()
    running["fal"].fault("picture", "reset_mid_body")
    with pytest.raises(requests.RequestException):
        requests.get(picture, timeout=10)


def test_a_redirect_leads_to_another_host_that_notes_whether_the_key_came_along(running, picture):
    standin = running["fal"]
    for headers in ({}, {"X-API-Key": standin.key}):
        standin.fault("picture", "redirect")
        assert requests.get(picture, headers=headers, timeout=10).ok
    assert [entry["key_seen"] for entry in standin.state()["elsewhere"]] == [False, True]
    assert standin.other_url != standin.base_url
