"""Who may write keys: judged on real requests to a real aiohttp server, from here and from this machine's own address."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from aiohttp import web
from flux_krea.nodes.bridge import access

HOME = "127.0.0.1"


@pytest.fixture
def status(monkeypatch):
    """What a caller with these headers gets, who comes from the address that the server has."""

    def of(headers: dict, address: str = HOME, allowed: str = "") -> int:
        monkeypatch.setenv(access.REMOTE_KEYS, allowed)
        with ThreadPoolExecutor(1) as thread:  # the browser tests leave a loop running in this one
            return thread.submit(asyncio.run, answer(headers, address)).result().status_code

    return of


async def answer(headers: dict, address: str) -> requests.Response:
    app = web.Application()
    app.router.add_post("/", write)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, 0)
        await site.start()
        port = runner.addresses[0][1]
        here = f"{address}:{port}"
        headers = {name: value.format(here=here, port=port) for name, value in headers.items()}
        return await asyncio.to_thread(post, f"http://{here}/", headers)
    finally:
        await runner.cleanup()


async def write(request: web.Request) -> web.Response:
    access.refuse_foreign_pages(request)
    access.refuse_other_machines(request)
    return web.json_response({})


def post(url: str, headers: dict) -> requests.Response:
    headers = {"Content-Type": "application/json", **headers}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, data=json.dumps({}), headers=headers, timeout=30)


def own_address() -> str:
    """Of this machine on its network, as others see it; asked of the routing table, nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return HOME  # no network: nothing but loopback to ask from
        return probe.getsockname()[0]


THIS_PAGE = [
    {},
    {"Origin": "http://{here}"},
    {"Origin": "http://{here}", "Sec-Fetch-Site": "same-origin"},
    {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
    {"Host": "[::1]:{port}", "Origin": "http://[::1]:{port}"},
    {"Content-Type": "application/json; charset=utf-8"},
]
FOREIGN_PAGE = [
    {"Origin": "null"},
    {"Origin": "https://attacker.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://{here}.attacker.example"},
    {"Origin": "http://["},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": "text/plain"},
]
OTHER_MACHINE = [
    {"Host": "attacker.example", "Origin": "http://attacker.example"},
    {"Host": "attacker.example:{port}", "Origin": "http://attacker.example:{port}", "Sec-Fetch-Site": "same-origin"},
    {"Host": "127.0.0.1.attacker.example"},
    {"Host": "192.168.1.5:{port}"},
    {"Host": "0.0.0.0:{port}"},
    {"Host": "["},
    *({name: "203.0.113.9", "Host": "localhost:{port}"} for name in access.OF_A_PROXY),
]


@pytest.mark.parametrize("headers", THIS_PAGE, ids=str)
def test_this_page_on_this_machine_writes(status, headers):
    assert status(headers) == 200


@pytest.mark.parametrize("allowed", ["", "1"])
@pytest.mark.parametrize("headers", FOREIGN_PAGE, ids=str)
def test_a_foreign_page_never_writes(status, headers, allowed):
    assert status(headers, allowed=allowed) in (403, 415)


@pytest.mark.parametrize("headers", OTHER_MACHINE, ids=str)
def test_another_machine_writes_where_the_operator_allows_it(status, headers):
    assert [status(headers, allowed=word) for word in ("", "0", "yes", "1")] == [403, 403, 403, 200]


def test_the_address_counts_and_not_what_the_caller_says_of_it(status):
    """From this machine's own address on its network, under a name that only this machine should have."""
    address = own_address()
    assert status({"Host": "localhost"}, address) == (200 if address == HOME else 403)
    assert status({"Host": "localhost"}, address, allowed="1") == 200
    assert status({"Origin": "http://attacker.example"}, address, allowed="1") == 403
