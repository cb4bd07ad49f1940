"""Keys echoed in every disguise that a text format has; and pictures, of which no byte may change."""

import base64
import html
import json
import os
import random
from pathlib import Path
from urllib.parse import quote

import pytest
from fake_provider import API, KEY, PROVIDERS, QUEUE, QUICK, FakeServer, png
from flux_krea.nodes.jobs import key_patterns
from flux_krea.nodes.jobs.client import Client, Unavailable
from flux_krea.nodes.jobs.keys import Keys
from flux_krea.nodes.providers.contract import Call

FAL = "01234567-89ab-cdef-0123-456789abcdef:0123456789abcdef0123456789abcdef"
SECRETS = (KEY, FAL, "r8_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789", "n-key/with+signs=that.mean~much")
LONG = ("x" * 3000, " " * 40000)


def escaped(key, form):
    return "".join(form.format(ord(sign)) for sign in key)


def in_base64(key, front=b""):
    return base64.b64encode(front + key.encode() + b"!").decode()


DISGUISES = {
    "plain": lambda key: key,
    "json": lambda key: json.dumps(key)[1:-1],
    "json in json": lambda key: json.dumps(json.dumps(key))[1:-1],
    "json, all escaped": lambda key: escaped(key, "\\u{:04x}"),
    "json, all escaped, capitals": lambda key: escaped(key, "\\u{:04X}"),
    "json in json, all escaped": lambda key: escaped(key, "\\\\u{:04x}"),
    "json, every other sign": lambda key: "".join(c if i % 2 else f"\\u{ord(c):04x}" for i, c in enumerate(key)),
    "an address": lambda key: quote(key, safe=""),
    "an address, all escaped": lambda key: escaped(key, "%{:02x}"),
    "an address, twice": lambda key: quote(escaped(key, "%{:02X}"), safe=""),
    "html": html.escape,
    "html, all escaped": lambda key: escaped(key, "&#{};"),
    "html, all escaped in hex": lambda key: escaped(key, "&#x{:x};"),
    "hex": lambda key: key.encode().hex(),
    "hex in capitals": lambda key: key.encode().hex().upper(),
    "hex with spaces": lambda key: key.encode().hex(" "),
    "hex with colons": lambda key: key.encode().hex(":"),
    "hex as in C": lambda key: escaped(key, "\\x{:02x}"),
    "lines": lambda key: "\n".join(key[i : i + 8] for i in range(0, len(key), 8)),
    "lines in json": lambda key: "\\n".join(key[i : i + 8] for i in range(0, len(key), 8)),
    "spread": lambda key: "  ".join(key),
    **{f"base64 behind {n}": lambda key, n=n: in_base64(key, b"Key "[:n]) for n in range(4)},
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(b"~~" + key.encode() + b"~").decode(),
    "base64 in an address": lambda key: quote(in_base64(key), safe=""),
    "base64 in lines": lambda key: base64.encodebytes(b"a: " + key.encode()).decode(),
    "base64 in json": lambda key: in_base64(key).replace("/", "\\/"),
    "basic authorization": lambda key: in_base64(key, b"me:"),
}


def traces(key):
    """What must not be left: two neighbouring signs of a key that stand nowhere else would be too strict, so six."""
    return {key[i : i + 6] for i in range(len(key) - 5)}


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
@pytest.mark.parametrize("disguise", DISGUISES)
def test_no_disguise_hides_a_key(disguise, secret):
    echo = DISGUISES[disguise](secret)
    for front, back in [("", ""), ("it was [", "], it said"), *[(text, text) for text in LONG]]:
        content = f'{{"detail": "{front}{echo}{back}"}}'.encode()
        told = key_patterns.hidden(content, SECRETS, b"[hidden]")
        assert b"[hidden]" in told, front[:10]
        left = told.decode().replace(front, "").replace(back, "").replace("%3D", "")
        assert len(left) < len('{"detail": "[hidden]"}') + 12, left  # base64 leaves what the bytes around it decide
        assert not [trace for trace in traces(echo) if trace in left and len(trace.strip(" :\\nux0")) > 4], left


def test_keys_at_every_place_around_the_borders_of_what_is_searched_at_once():
    last, first = key_patterns.WINDOW, key_patterns.WINDOW - key_patterns.OVERLAP
    for place in (*range(last - 80, last + 5, 4), *range(first - 80, first + 5, 4), last + 1000):
        for front in (b"," * place, b"-" * place):  # what base64 never has, and what it may have
            told = key_patterns.hidden(front + FAL.encode() + b"." * 40000 + FAL.encode(), [FAL], b"[hidden]")
            assert told == front + b"[hidden]" + b"." * 40000 + b"[hidden]", place


def test_a_key_beside_a_picture_is_hidden_and_the_picture_is_not_touched():
    picture = base64.b64encode(os.urandom(60_000))
    for edge in (b'"', b"", b" "):
        told = key_patterns.hidden(FAL.encode() + edge + picture + edge + FAL.encode(), [FAL], b"[hidden]")
        assert told == b"[hidden]" + edge + picture + edge + b"[hidden]"


@pytest.mark.parametrize("size", [100, 5000, 9000, 100_000, 3_000_000])
def test_no_byte_of_a_picture_changes(size):
    draw = random.Random(size)
    pictures = [base64.b64encode(draw.randbytes(size)) for _ in range(3)]
    content = b'{"data": [' + b", ".join(b'{"b64_json": "' + each + b'"}' for each in pictures) + b"]}"
    assert key_patterns.hidden(content, SECRETS, b"[hidden]") is content
    short = key_patterns.hidden(content, ["Zq7_"], b"[hidden]")
    if size > 9000:  # a key so short stands in every picture; within one nothing is looked for
        middle = pictures[0][8192:-8192]
        assert middle in short


WORD = b"r8_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"  # base64 cannot be told from it


@pytest.mark.parametrize(
    ("front", "blocks", "back", "hidden"),
    [
        (b"", 5, b"", [0, 4]),
        (b" " * key_patterns.BLOCK, 5, b" " * key_patterns.BLOCK, [0, 4]),
        (b" " * key_patterns.BLOCK, 5, b" ", [0, 4]),
        (b" " * key_patterns.WINDOW * 2, 5, b"", [0, 4]),
        (b"", 1, b"", [0]),
        (b"", 2, b"", [0, 1]),
    ],
)
def test_of_a_run_of_base64_the_first_and_the_last_block_are_searched_and_none_between(front, blocks, back, hidden):
    block = WORD.rjust(key_patterns.BLOCK // 2, b"a").ljust(key_patterns.BLOCK, b"b")
    told = key_patterns.hidden(front + block * blocks + back, [WORD.decode()], b"[hidden]")
    hollow = block.replace(WORD, b"[hidden]")
    assert told == front + b"".join(hollow if index in hidden else block for index in range(blocks)) + back


EDGES = b"\0", b"\xff"


@pytest.mark.parametrize("length", [4, 5, 6, 30, 31, 32])
@pytest.mark.parametrize("before", range(3))
def test_in_base64_nothing_is_left_but_the_signs_that_the_bytes_around_decide_too(length, before):
    key = WORD.decode()[3 : 3 + length]
    written = [base64.b64encode(edge * before + key.encode() + edge * 4).decode().rstrip("=") for edge in EDGES]
    own = [place for place, signs in enumerate(zip(*written, strict=True)) if len(set(signs)) == 1]
    for text in written:
        expected = f"{text[: own[0]]}[hidden]{text[own[-1] + 1 :]}"
        assert key_patterns.hidden(text.encode(), [key], b"[hidden]") == expected.encode()


@pytest.mark.parametrize("number", ["255", "256", "999", "0256"])
def test_a_number_that_is_no_byte_hides_no_key_behind_it(number):
    content = f"&#{number};{escaped(FAL, '&#{};')}".encode()
    assert key_patterns.hidden(content, [FAL], b"[hidden]") == f"&#{number};[hidden]".encode()


def test_where_nothing_is_found_the_very_object_comes_back():
    for content in (b"", b"{}", b"\0" * 100_000, os.urandom(100_000)):
        assert key_patterns.hidden(content, SECRETS, b"[hidden]") is content
        assert key_patterns.hidden(content, [], b"[hidden]") is content


@pytest.mark.parametrize(
    "content",
    [
        b"r" + b"\\" * 200_000,
        (b"r" + b" " * 39) * 5000,
        b"r8_" * 60_000,
        b"%25" * 60_000,
        b"&amp;" * 40_000,
        b"\\u0072" * 30_000,
        (b"a" * 4095 + b" ") * 50,
        b"0" * 200_000 + b"!",
        b"30 " * 60_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_no_content_makes_the_search_go_astray(content):
    assert key_patterns.hidden(content, SECRETS, b"[hidden]") is content
    assert b"[hidden]" in key_patterns.hidden(content + b" " + KEY.encode(), SECRETS, b"[hidden]")


def test_a_key_nobody_can_encode_spoils_no_answer(tmp_path):
    keys = Keys(tmp_path, PROVIDERS)
    keys.set("fake", "\ud800" * 20)
    assert keys.without_keys(b'{"a": 1}') == b'{"a": 1}' and keys.redacted("plain") == "plain"


# Through the client


@pytest.fixture
def server(monkeypatch):
    server = FakeServer()
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", server.url)
    monkeypatch.setenv("FAKE_KEY", KEY)
    yield server
    server.stop()


@pytest.fixture
def client(server):
    client = Client("fake", QUEUE, KEY, QUICK, Keys(Path("nowhere"), PROVIDERS).without_keys)
    yield client
    client.close()


def test_the_headers_of_an_answer_hold_no_key_either(client, server):
    headers = [("Location", f"https://x.example/?token={quote(KEY)}"), ("Retry-After", KEY), ("X-Fal-Error-Type", KEY)]
    server.faults["list"] = [lambda handler: handler.answer(422, {}, headers=headers)]
    answer = client.ask(Call("GET", f"{API}/jobs"))
    assert KEY not in str(answer.headers) and answer.headers["location"].startswith("https://x.example/?token=")


def test_no_error_of_a_download_holds_a_key(client, server, tmp_path):
    server.faults["picture"] = [lambda handler: handler.answer(503, KEY.encode(), headers=[("Retry-After", KEY)])] * 9
    with pytest.raises(Unavailable) as failure:
        client.download(f"{API}/pictures/a.png", tmp_path, "a")
    assert KEY not in str(failure.value)


def test_a_picture_that_has_the_key_in_it_arrives_as_it_was_sent(client, server, tmp_path):
    content = png()[:33] + b"\x00\x00\x00\x14tEXtComment\0" + KEY.encode()[:12] + b"\0\0\0\0" + png()[33:]
    content = content.replace(b"\x00\x00\x00\x14tEXt", b"\x00\x00\x00\x14krEx")  # a chunk nobody reads
    server.picture = content
    try:
        assert client.download(f"{API}/pictures/a.png", tmp_path, "a").read() == content
    except Exception as error:  # its checksum is wrong: damaged, not altered
        assert "damaged" in str(error)
    assert client.download(f"data:image/png;base64,{base64.b64encode(png()).decode()}", tmp_path, "b").read() == png()
