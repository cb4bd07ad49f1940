"""The page's routes for keys: who may write, that no key ever comes back, that a slow provider holds up nobody."""

import json
import stat
import sys
import threading
from contextlib import suppress

import pytest
import requests
from api_graphs import PROVIDERS, ApiGraph
from comfyui import free_port

MARKED = "test-key-from-the-page-5f2c"
ROUTES = ("keys", "keys/remove", "keys/test")


def post(comfyui, route: str, body=None, **headers) -> requests.Response:
    headers = {"Content-Type": "application/json", **headers}
    data = json.dumps({"provider": "fal", "key": MARKED} if body is None else body)
    return requests.post(f"{comfyui.url}/flux_krea/{route}", data=data, headers=headers, timeout=30)


def key_file(comfyui):
    (folder,) = [path for path in (comfyui.base / "user").glob("*flux_krea") if path.is_dir()]
    return folder / "keys.json"


def stored(comfyui) -> dict:
    return json.loads(key_file(comfyui).read_text()) if key_file(comfyui).exists() else {}


@pytest.fixture(autouse=True)
def tidy(comfyui, standins):
    yield
    for provider in PROVIDERS:
        post(comfyui, "keys/remove", {"provider": provider}).raise_for_status()


def test_a_key_is_kept_in_a_private_file_and_never_comes_back(comfyui):
    answers = [post(comfyui, "keys", Origin=comfyui.url), comfyui.get("/flux_krea/keys")]
    assert all(answer.ok for answer in answers)
    assert stored(comfyui) == {"fal": MARKED}
    if sys.platform != "win32":
        assert stat.S_IMODE(key_file(comfyui).stat().st_mode) == 0o600
    answers += [post(comfyui, "keys/test"), comfyui.get("/flux_krea/providers"), comfyui.get("/flux_krea/waiting")]
    answers += [post(comfyui, "keys", {"provider": "nobody", "key": MARKED}), post(comfyui, "keys/remove")]
    for answer in answers:
        assert MARKED not in answer.text and "test-key" not in answer.text
    assert stored(comfyui) == {}


def test_no_route_of_comfyui_serves_the_private_folder(comfyui):
    post(comfyui, "keys").raise_for_status()
    name = key_file(comfyui).parent.name
    paths = [f"/userdata/..%2F{name}%2Fkeys.json", f"/userdata/{name}%2Fkeys.json", f"/userdata?dir=..%2F{name}"]
    paths += [f"/view?filename=keys.json&type={kind}&subfolder=../user/{name}" for kind in ("output", "input", "temp")]
    for path in paths:
        answer = requests.get(comfyui.url + path, timeout=30)
        assert not answer.ok and MARKED not in answer.text, path


FOREIGN = {
    "a page elsewhere": {"Origin": "https://evil.example"},
    "a page in a sandbox": {"Origin": "null"},
    "a page that this browser calls foreign": {"Sec-Fetch-Site": "cross-site"},
    "a page on this machine at another port": {"Origin": f"http://127.0.0.1:{free_port()}"},
    "a form": {"Content-Type": "text/plain"},
    "a proxy": {"X-Forwarded-For": "203.0.113.9"},
    "a name that points at this machine": {"Host": "evil.example"},
    "a name that points at this machine, and its own page": {"Host": "evil.example", "Origin": "http://evil.example"},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("page", FOREIGN)
def test_who_is_not_this_page_on_this_machine_writes_nothing(comfyui, route, page):
    post(comfyui, "keys").raise_for_status()
    body = {"provider": "fal", "key": "test-key-of-a-thief"}
    answer = post(comfyui, route, body, **FOREIGN[page])
    assert answer.status_code in (403, 415), answer.text
    assert stored(comfyui) == {"fal": MARKED}


def test_the_operator_can_let_other_machines_write_and_still_no_foreign_page(hasty):
    name = f"krea.example:{hasty.port}"
    assert post(hasty, "keys", Host=name, Origin=f"http://{name}").json() == {"state": "environment"}
    assert stored(hasty) == {"fal": MARKED}
    for page in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert post(hasty, "keys/remove", **{"Host": name, **page}).status_code == 403
    assert stored(hasty) == {"fal": MARKED}
    post(hasty, "keys/remove", Host=name).raise_for_status()
    assert stored(hasty) == {}


def test_what_is_no_json_object_is_refused_with_a_sentence(comfyui):
    for body in ([], "fal", 5):
        answer = post(comfyui, "keys", body)
        assert answer.status_code == 400 and "object" in answer.text
    assert post(comfyui, "keys", {"provider": "fal", "key": 5}).status_code == 400
    assert post(comfyui, "keys", {"provider": "fal", "key": " "}).status_code == 422


def test_a_refused_key_is_said_to_be(comfyui, standins):
    assert post(comfyui, "keys/test").json() == {"works": True}
    standins["fal"].fault("account", "status", 1, status=401, message=f"no such key {standins['fal'].key}")
    answer = post(comfyui, "keys/test")
    assert answer.status_code == 422 and "does not take this key" in answer.json()["error"]
    assert standins["fal"].key not in answer.text


def test_providers_that_hang_hold_up_neither_comfyui_nor_a_run(comfyui, standins):
    """More of them than asyncio has threads."""
    standins["replicate"].fault("account", "black_hole", None)

    def test_key():
        with suppress(requests.RequestException):
            post(comfyui, "keys/test", {"provider": "replicate"})

    tests = [threading.Thread(target=test_key, daemon=True) for _ in range(40)]
    for test in tests:
        test.start()
    assert comfyui.get("/system_stats").ok
    assert comfyui.get("/flux_krea/keys").json()["replicate"] == "environment"
    graph = ApiGraph()
    graph.api_shown("fal", prompt="while keys are tested")
    assert comfyui.pictures(comfyui.run(graph))
    assert all(test.is_alive() for test in tests)
