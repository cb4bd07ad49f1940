"""A delivery's pictures: as the journal has them, on the disk, and on their way there."""

import gzip
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fake_provider import API, KEY, QUEUE, QUICK, png
from flux_krea.nodes.jobs import downloads
from flux_krea.nodes.jobs.client import Client, Gone
from flux_krea.nodes.jobs.job_record import JobRecord
from flux_krea.nodes.providers.contract import BadAnswer, Delivery, Picture, Unavailable


def record(**values):
    return JobRecord("fake", "fake/krea", "0" * 40, {}, id="job", **values)


def new_client():
    return Client("fake", QUEUE, KEY, QUICK)


@pytest.fixture
def client(server):
    client = new_client()
    yield client
    client.close()


@pytest.mark.parametrize(
    ("kept", "delivery"),
    [
        (
            {"pictures": ["a", "b"], "flags": [True, None], "notes": ["a note"], "seed": 7},
            Delivery(("a", "b"), (True, None), seed=7, notes=("a note",)),
        ),
        ({"pictures": ["a"], "flags": None}, Delivery(("a",), ())),
        ({}, Delivery((), ())),
        (None, Delivery((), ())),
    ],
)
def test_a_delivery_is_read_from_the_journal_whatever_is_missing_there(kept, delivery):
    assert downloads.delivery_of(record(delivery=kept)) == delivery


@pytest.mark.parametrize(
    ("contents", "is_whole"),
    [([], False), ([png()], True), ([png(), png(9)], True), ([png(), None], False), ([None, png()], False)]
    + [([png(), png()[:-20]], False)],
    ids=["none", "one", "two", "the second missing", "the first missing", "the second damaged"],
)
def test_a_finished_job_has_all_its_pictures_or_none(tmp_path, contents, is_whole):
    for index, content in enumerate(contents):
        if content:
            (tmp_path / f"job-{index}.png").write_bytes(content)
    found = downloads.on_disk(record(pictures=[f"job-{index}.png" for index in range(len(contents))]), tmp_path)
    assert [picture.read() for picture in found or ()] == (contents if is_whole else [])
    assert (found is not None) == is_whole


def test_pictures_are_fetched_side_by_side_each_to_its_own_place(server, tmp_path):
    together = threading.Barrier(3)

    def answer(handler):
        together.wait(20)
        handler.answer(200, png(1 + int(handler.path[-1]), 1))

    server.faults["picture"] = [answer] * 3
    found = downloads.fetch([f"{API}/pictures/{index}" for index in range(3)], record(), tmp_path, new_client)
    assert found == tuple(Picture(str(tmp_path / f"job-{index}.png"), 1 + index, 1) for index in range(3))


def test_a_picture_that_is_on_the_disk_is_not_fetched_again(server, tmp_path):
    (tmp_path / "job-1.png").write_bytes(png())
    urls = [f"{API}/pictures/a", downloads.ON_DISK]
    assert [Path(each.path).name for each in downloads.fetch(urls, record(), tmp_path, new_client)] == [
        "job-0.png",
        "job-1.png",
    ]
    downloads.fetch(urls, record(), tmp_path, new_client)
    assert server.count("picture") == 1


def test_a_picture_that_came_as_text_and_was_deleted_is_paid_and_gone(server, tmp_path):
    with pytest.raises(Gone, match="deleted from the disk") as gone:
        downloads.fetch([downloads.ON_DISK], record(), tmp_path, new_client)
    assert gone.value.paid is True


def test_pictures_on_their_way_do_not_keep_the_process_from_ending(server, tmp_path):
    before = set(threading.enumerate())
    server.faults["picture"] = ["hang"] * 2
    urls = [f"{API}/pictures/{index}" for index in range(2)]
    fetching = threading.Thread(target=downloads.fetch, args=(urls, record(), tmp_path, new_client), daemon=True)
    fetching.start()
    assert server.arrived["picture"].wait(20)
    under_way = set(threading.enumerate()) - before
    assert len(under_way) > 2 and all(thread.daemon for thread in under_way)
    server.let_go.set()
    fetching.join(20)


# One picture


PICTURE = f"{API}/pictures/a.png"


@pytest.mark.parametrize("has_read1", [True, False])
def test_a_picture_that_comes_packed_is_unpacked_and_its_length_is_not_the_announced_one(
    client, server, tmp_path, monkeypatch, has_read1
):
    packed = gzip.compress(png(), 0)
    assert len(packed) > len(png())
    if not has_read1:  # as in urllib3 1
        monkeypatch.delattr("urllib3.response.HTTPResponse.read1")
        monkeypatch.delattr("urllib3.response.BaseHTTPResponse.read1")
    server.faults["picture"] = [lambda handler: handler.answer(200, packed, headers=[("Content-Encoding", "gzip")])]
    assert client.download(PICTURE, tmp_path, "a").read() == png()
    assert server.count("picture") == 1


def test_a_picture_that_cannot_be_had_is_paid_all_the_same(client, server, tmp_path):
    server.faults["picture"] = ["reset"] * 100
    with pytest.raises(Unavailable, match="at 127.0.0.1: connection reset") as failure:
        client.download(f"{server.url}/pictures/a.png", tmp_path, "a")
    assert failure.value.paid is True
    server.faults["picture"] = [lambda handler: handler.answer(503, {}, headers=[("Retry-After", "3600")])] * 100
    before = server.count("picture")
    with pytest.raises(Unavailable, match="answered 503, and asks to wait 60 minutes") as failure:
        client.download(PICTURE, tmp_path, "a")
    assert failure.value.paid is True and server.count("picture") == before + 1


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.example/a.png",
        "https://me@pictures.example/a.png",
        "https://pict%75res.example/a.png",
        "https://pictures.example\\a.png",
        "https://pictures.example:0/a.png",
        "https://[::1/a.png",
    ],
)
@pytest.mark.parametrize("base", ["", "http://127.0.0.1:9"])
def test_an_address_that_can_be_read_in_two_ways_is_not_called(monkeypatch, tmp_path, base, url):
    monkeypatch.setenv("FLUX_KREA_BASE_URL_FAKE", base)
    with pytest.raises(BadAnswer, match="not https .https?:.; it is not called. No run can collect it") as refusal:
        Client("fake", QUEUE, KEY, patience=QUICK).download(url, tmp_path, "a")
    assert refusal.value.paid is True


def test_a_picture_may_be_redirected_to_any_host_over_https(client, server, tmp_path):
    elsewhere = [("Location", "https://pictures.invalid/a.png")]
    server.faults["picture"] = [lambda handler: handler.answer(302, b"", headers=elsewhere)] * 9
    client._patience = replace(QUICK, fault=0.01)
    with pytest.raises(Unavailable, match="unknown host"):
        client.download(PICTURE, tmp_path, "a")


def test_a_picture_that_is_there_is_fetched_once_and_without_the_key(client, server, tmp_path):
    client.download(PICTURE, tmp_path, "a")
    assert ["Authorization" in headers for _, headers, _ in server.seen] == [False]


def test_the_hosts_of_a_providers_pictures_never_get_the_key(client, server, tmp_path):
    client._provider = replace(QUEUE, picture_hosts=("cdn.fake.example",))
    server.faults["picture"] = [403, 401]
    assert client.download("https://cdn.fake.example/pictures/a.png?size=8#top", tmp_path, "a").read() == png()
    assert {headers["X-Forwarded-Host"] for _, headers, _ in server.seen} == {"cdn.fake.example"}
    assert ["Authorization" in headers for _, headers, _ in server.seen] == [False] * 3
