"""Every route of ours, by whoever can reach it and with whatever can be sent: who is answered, and never a 500."""

import json
import math

import pytest
import requests
from api_graphs import PROVIDERS
from comfyui import free_port

FOR_THIS_MACHINE = {  # route → a body that is right, None for a GET
    "keys": None,
    "spending": None,
    "waiting": None,
    "waiting/" + "0" * 32 + "/0": None,
    "keys ": {"provider": "fal", "key": "test-key-of-the-page"},
    "keys/remove": {"provider": "fal"},
    "keys/test": {"provider": "fal"},
    "limits": {"limit": "per_run", "usd": 0.75},
    "waiting/put_aside": {"id": "0" * 32},
}
VALUES = {
    "prompt": "a fence in the snow",
    "image_use": "image to image",
    "strength": 0.9,
    "width": 1024,
    "height": 1024,
    "steps": 28,
    "guidance": 4.5,
    "seed": 1,
    "images": 1,
    "acceleration": "none",
    "safety_checker": True,
    "output_format": "png",
    "quality": 95,
    "extra": "",
}
FOR_EVERY_PAGE = {
    "estimate": {"provider": "fal", "has_image": False, "values": VALUES},
    "size": {"preset": "exact size", "aspect_ratio": "1:1", "megapixels": 1.0, "width": 1024, "height": 768},
}
WITH_BODY = {route.strip(): body for route, body in (FOR_THIS_MACHINE | FOR_EVERY_PAGE).items() if body}
REFUSALS = (400, 403, 404, 413, 415, 422)


@pytest.fixture(scope="module")
def ask(comfyui):
    """Sends to one of our routes; a body of bytes goes as it is."""
    with requests.Session() as session:

        def send(route, body=None, **headers):
            url = f"{comfyui.url}/flux_krea/{route.strip()}"
            if body is None:
                return session.get(url, headers=headers, timeout=60)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
            return session.post(url, data=content, headers=headers, timeout=60)

        yield send


@pytest.fixture(autouse=True)
def tidy(ask, standins):
    yield
    for provider in PROVIDERS:
        ask("keys/remove", {"provider": provider}).raise_for_status()
    for limit in ("per_run", "per_24_hours", "unknown_price"):
        ask("limits", {"limit": limit, "usd": None}).raise_for_status()


ELSEWHERE = {
    "a name that points at this machine": {"Host": "evil.example"},
    "the same with a port": {"Host": "evil.example:8188"},
    "a name that begins like this machine": {"Host": "127.0.0.1.evil.example"},
    "a name that ends like this machine": {"Host": "evil.localhost"},
    "another machine's address": {"Host": "192.168.1.5:8188"},
    "every address": {"Host": "0.0.0.0:8188"},
    "no address": {"Host": "["},
    "an address as one number": {"Host": "2130706433"},
    "a proxy": {"X-Forwarded-For": "203.0.113.9"},
    "a proxy that says it is this machine": {"X-Forwarded-For": "127.0.0.1", "Host": "localhost"},
    "a proxy by its standard name": {"Forwarded": "for=127.0.0.1"},
    "a proxy that names the host": {"X-Forwarded-Host": "localhost"},
    "a proxy that names the address": {"X-Real-IP": "127.0.0.1"},
    "a proxy on the way": {"Via": "1.1 proxy"},
    "its own page there": {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
}


@pytest.mark.parametrize("machine", ELSEWHERE)
def test_nothing_private_is_read_or_written_from_another_machine(ask, machine):
    before = ask("spending").json()["limits"], ask("keys").json()
    for route, body in FOR_THIS_MACHINE.items():
        answer = ask(route, body, **ELSEWHERE[machine])
        assert answer.status_code in (400, 403), (route, answer.text)
        assert not {"environment", "spent_24h"} & set(answer.text.split('"')), route
    assert (ask("spending").json()["limits"], ask("keys").json()) == before


@pytest.mark.parametrize("machine", [name for name in ELSEWHERE if name != "no address"])
def test_the_page_on_another_machine_still_hears_of_prices_and_sizes(ask, machine):
    there = ELSEWHERE[machine]
    estimate = ask("estimate", FOR_EVERY_PAGE["estimate"], **there)
    assert estimate.json()["usd"] == 0.025 and estimate.json()["size"] == [1024, 1024]
    assert "1024 × 768" in ask("size", FOR_EVERY_PAGE["size"], **there).json()["text"]
    assert ask("providers", **there).json()["fal"]["label"] == "fal" and ask("detectors", **there).ok


@pytest.mark.parametrize("machine", [name for name in ELSEWHERE if name != "no address"])
def test_the_page_on_another_machine_does_not_hear_who_has_a_key(ask, machine):
    """Whoever has one: the same answer, with the price of the dearest."""
    body = {**FOR_EVERY_PAGE["estimate"], "provider": "auto"}
    here = ask("estimate", body).json()
    there = ask("estimate", body, **ELSEWHERE[machine]).json()
    assert here["provider"] in PROVIDERS and there["provider"] == "auto"
    assert there["usd"] > here["usd"] and (there["size"], there["changes"]) == (None, [])
    guess = {"provider": "fal", "values": {**VALUES, "extra": "k" * 32}}
    refused = ask("estimate", guess, **ELSEWHERE[machine]).json()
    with_a_key = ask("keys", {"provider": "runware", "key": "k" * 32})
    assert with_a_key.ok and ask("estimate", body).json()["provider"] == "runware"
    assert ask("estimate", body, **ELSEWHERE[machine]).json() == there
    assert "[hidden]" in ask("estimate", guess).json()["refused"]
    assert ask("estimate", guess, **ELSEWHERE[machine]).json() == refused


FOREIGN = {
    "a page in a sandbox": {"Origin": "null"},
    "a page elsewhere": {"Origin": "https://evil.example"},
    "this machine at another port": {"Origin": f"http://127.0.0.1:{free_port()}"},
    "no origin at all": {"Origin": ""},
    "another site by the browser's word": {"Sec-Fetch-Site": "cross-site"},
    "a sister site by the browser's word": {"Sec-Fetch-Site": "same-site"},
    "a word nobody knows": {"Sec-Fetch-Site": "elsewhere"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "plain text": {"Content-Type": "text/plain"},
    "nothing said": {"Content-Type": ""},
    "JSON by another name": {"Content-Type": "text/json"},
    "two types": {"Content-Type": "text/plain, application/json"},
}


@pytest.mark.parametrize("page", FOREIGN)
def test_no_foreign_page_sends_anything(ask, page):
    before = ask("spending").json()["limits"], ask("keys").json()
    for route, body in WITH_BODY.items():
        assert ask(route, body, **FOREIGN[page]).status_code in (403, 415), route
    assert (ask("spending").json()["limits"], ask("keys").json()) == before


def test_limits_are_shown_set_and_set_back(ask):
    assert ask("limits", {"limit": "unknown_price", "usd": 0.75}).json()["limits"]["unknown_price"]["usd"] == 0.75
    shown = ask("spending").json()
    variable = "FLUX_KREA_UNKNOWN_PRICE_USD"
    assert shown["limits"]["unknown_price"] == {"usd": 0.75, "source": "file", "variable": variable}
    assert shown["left_24h"] == pytest.approx(shown["limits"]["per_24_hours"]["usd"] - shown["spent_24h"])
    for usd in (-1, -0.01, True, "1", [1], float("nan"), float("inf"), 10**400):
        answer = ask("limits", {"limit": "unknown_price", "usd": usd})
        assert answer.status_code in (400, 422) and "Traceback" not in answer.text, usd
    assert ask("spending").json()["limits"]["unknown_price"]["usd"] == 0.75
    back = ask("limits", {"limit": "unknown_price", "usd": None}).json()
    assert back["limits"]["unknown_price"] == {"usd": 0.1, "source": "default", "variable": variable}


# Whatever can be sent


def nested(opening: str, closing: str, depth: int) -> bytes:
    return (opening * depth + closing * depth).encode()


RAW = [
    b"", b" ", b"\0", b"\xff\xfe", b"null", b"true", b"0", b"-", b'"', b'"fal"', b"[]", b"[{}]", b"{", b"}", b"{}",
    b"{}{}", b"{'a': 1}", b'{"a": 1,}', b'{"provider"}', b"NaN", b'{"provider": NaN}', b'{"provider": Infinity}',
    b'{"provider": 1e999}', b'{"provider": ' + b"9" * 5000 + b"}", b'{"provider": "\\ud800"}', b'{"provider": "\\u0000"}',
    b'{"provider": "fal", "provider": ["fal"]}', b'{"\\ud800": 1}', b'{"": ""}', b'{"__class__": "x", "self": 1}',
    b"\xef\xbb\xbf{}", "{}".encode("utf-16"), "{}".encode("utf-32"), b'{"provider": "\xff"}', b"<xml/>",
    b"provider=fal&key=x", b'{"provider": "' + b"x" * 2_000_000 + b'"}', b"[" * 500_000, b'{"a":' * 100_000,
    nested("[", "]", 900), nested("[", "]", 100_000), b'{"provider": ' + nested("[", "]", 900) + b"}",
    b'{"provider": ' + nested("[", "]", 50_000) + b"}", b'{"values": ' + nested("[", "]", 900) + b', "limit": "per_run"}',
    json.dumps({f"field{index}": index for index in range(20_000)}).encode(),
]  # fmt: skip
ODD_VALUES = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.1, -0.0, 1e308, -1e308, float("nan"),
    float("inf"), -float("inf"), "", " ", "0", "NaN", "none", "fal ", "FAL", "auto", "../../keys.json", "\0", "\n",
    "\ud800", "\u202e", "💸" * 1000, "x" * 1_000_000, "9" * 5000, "[" * 100_000, '{"a":' * 5000, "{" + '"a":1,' * 9 + "}",
    '{"seed": 1e999}', '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "[]", "null",
    [], [[]], ["fal"], ["png"], [1] * 10_000, {}, {"a": 1}, {"fal": "fal"}, [None], [[[[[[[[[[1]]]]]]]]]],
]  # fmt: skip


def check(answer, sent) -> None:
    """Refused or answered, and with JSON that every page can read."""
    assert answer.ok or answer.status_code in REFUSALS, (answer.status_code, answer.text[:300], repr(sent)[:200])
    assert "Traceback" not in answer.text and len(answer.text) < 20_000
    if answer.headers["Content-Type"].startswith("application/json"):
        json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON: {repr(sent)[:200]}"))
    if not answer.ok:
        assert len(answer.text) > 10


@pytest.mark.parametrize("route", WITH_BODY)
def test_a_body_that_is_no_right_json_is_refused(ask, route):
    assert len(RAW) + len(ODD_VALUES) > 90
    for content in RAW:
        answer = ask(route, content)
        check(answer, content)
        assert not answer.ok, content[:80]


@pytest.mark.parametrize("route", WITH_BODY)
def test_no_value_of_any_field_ends_in_a_500(ask, route):
    body = WITH_BODY[route]
    for name in (*body, "another"):
        for value in ODD_VALUES:
            check(ask(route, {**body, name: value}), {name: value})
    for name in body:
        check(ask(route, {key: value for key, value in body.items() if key != name}), f"without {name}")


@pytest.mark.parametrize("has_image", [False, True])
def test_no_value_of_any_widget_ends_in_a_500(ask, has_image):
    for name in (*VALUES, "another", "image", "provider"):
        for value in ODD_VALUES:
            body = {"provider": "fal", "has_image": has_image, "values": {**VALUES, name: value}}
            answer = ask("estimate", body)
            check(answer, {name: value})
            if answer.ok and answer.json().get("usd") is not None:
                assert math.isfinite(answer.json()["usd"]), {name: value}


@pytest.mark.parametrize("provider", [*PROVIDERS, "auto", "nobody", ""])
def test_no_provider_makes_a_500_of_odd_values(ask, provider):
    for name in ("prompt", "extra", "width", "images", "seed", "guidance"):
        for value in ODD_VALUES:
            check(ask("estimate", {"provider": provider, "values": {**VALUES, name: value}}), {provider: {name: value}})


@pytest.mark.parametrize(
    "extra, words",
    [
        ("[" * 100_000, "32 deep"),
        ('{"a":' + "[" * 40 + "]" * 40 + "}", "32 deep"),
        ('{"a":' * 900 + "1" + "}" * 900, "32 deep"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e999}', "cannot be sent"),
        ("{" + " " * 200_000 + "}", "200002 characters"),
        ("[1]", "must be a JSON object"),
        ("{", "not JSON"),
    ],
    ids=lambda text: text[:16],
)
def test_extra_that_cannot_be_sent_is_refused_with_a_sentence(ask, extra, words):
    answer = ask("estimate", {"provider": "fal", "values": {**VALUES, "extra": extra}})
    assert answer.ok and words in answer.json()["refused"], answer.text[:300]


HEADS = [
    {"Content-Type": "application/json; charset=nonsense"},
    {"Content-Type": "application/json; charset=utf-7"},
    {"Content-Type": "application/json; charset=base64"},
    {"Content-Type": 'application/json; charset="'},
    {"Content-Type": "application/json; charset=\0"},
    {"Content-Type": "application/json; " + "a=b; " * 500},
    {"Content-Encoding": "gzip"},
    {"Content-Encoding": "deflate"},
    {"Content-Encoding": "nonsense"},
    {"Origin": "http://" + "x" * 5000},
    {"Host": "x" * 5000},
    {"Host": "127.0.0.1:99999999"},
    {"Host": "[::1"},
    {"Host": "a b"},
    {"Host": ""},
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head}"[:60])
def test_no_header_ends_in_a_500(ask, head):
    for route, body in (WITH_BODY | {"keys ": None, "spending": None, "waiting": None}).items():
        try:
            answer = ask(route, body, **head)
        except (requests.exceptions.InvalidHeader, UnicodeError):
            continue  # no client sends it
        except requests.ConnectionError:
            assert "Content-Encoding" in head  # aiohttp hangs up on a body that cannot be unpacked
            continue
        assert answer.ok or answer.status_code in REFUSALS, (route, answer.status_code, answer.text[:300])


PATHS = [
    "waiting/x/0", "waiting/" + "0" * 32 + "/0", "waiting/" + "0" * 32 + "/9999", "waiting/" + "0" * 32 + "/10000",
    "waiting/" + "0" * 32 + "/-1", "waiting/%00/0", "waiting/..%2f..%2fkeys.json/0", "waiting/%2e%2e/0",
    "waiting/" + "x" * 5000 + "/0", "waiting/💸/0", "waiting/%ff/0", "waiting/%ed%a0%80/1", "waiting/*/0", "waiting/[/0",
    "waiting/'; DROP TABLE jobs; --/0", "waiting/a/%D9%A3",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:30])
def test_a_picture_that_is_not_there_is_not_found(ask, path):
    answer = ask(path)
    assert answer.status_code in (400, 404) and "Traceback" not in answer.text, (answer.status_code, answer.text[:300])
