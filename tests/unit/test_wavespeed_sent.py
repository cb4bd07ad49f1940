"""What WaveSpeed is sent: the values, and an input image, which goes to where a ticket says before anything is paid."""

from dataclasses import replace

import pytest
from flux_krea.nodes.providers import wavespeed
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    BalanceTooLow,
    KeyRefused,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)
from scripted_answers import ID, IMAGE, TEXT, WAVESPEED_CREATED, WAVESPEED_PRICE, failing, play, reply

WAVESPEED = wavespeed.PROVIDER


def body(data):
    return reply({"code": 200, "message": "success", "data": data})


def test_its_values_are_the_exact_payload():
    sent = {"prompt": "a fox", "guidance_scale": 4.5, "seed": 7, "output_format": "png", "size": "1024*1024"}
    planned = WAVESPEED.plan(TEXT)
    assert (planned.endpoint, planned.payload) == ("wavespeed-ai/flux-krea-dev-lora", sent)
    assert WAVESPEED.plan(replace(IMAGE, strength=0.6)).payload == {**sent, "size": "256*256", "strength": 0.6}


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ((1000, 700), (1008, 704)),
        ((1536, 256), (1536, 256)),
        ((4096, 1024), (1536, 384)),
        ((100, 100), (256, 256)),
        ((64, 1024), (256, 1536)),
    ],
)
def test_wavespeed_makes_multiples_of_16_with_256_to_1536_a_side(asked, size):
    planned = WAVESPEED.plan(replace(TEXT, width=asked[0], height=asked[1]))
    assert planned.size == size and planned.payload["size"] == "{}*{}".format(*size)
    assert ("size" in {change.parameter for change in planned.changes}) == (asked != size)


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_a_seed_of_31_bits_is_sent_as_it_is(seed):
    planned = WAVESPEED.plan(replace(TEXT, seed=seed))
    assert planned.payload["seed"] == seed and "seed" not in {change.parameter for change in planned.changes}


@pytest.mark.parametrize("data", [{}, {"id": None}, {"id": "../x"}, {"id": 5}, []])
def test_an_accepted_prediction_without_an_id_is_an_unknown_outcome(data):
    assert failing(UnknownOutcome, WAVESPEED, TEXT, WAVESPEED_PRICE, body(data)).paid is None


def test_the_picture_is_uploaded_where_the_ticket_says_and_the_key_stays_here():
    ticket = {"upload": {"method": "PUT", "url": "https://elsewhere.example/x", "headers": {"Content-Type": "image/png"}},
              "download_url": "https://cdn.example/x.png"}  # fmt: skip
    answers = [WAVESPEED_PRICE, body(ticket), reply(b""), WAVESPEED_CREATED]
    calls, _ = play(WAVESPEED.submit(WAVESPEED.plan(IMAGE)), list(answers))
    put, paid = calls[2:]
    assert (put.method, put.url, put.authorize, put.body) == ("PUT", "https://elsewhere.example/x", False, IMAGE.image)
    assert paid.json["image"] == "https://cdn.example/x.png" and paid.paid
    assert failing(BadAnswer, WAVESPEED, IMAGE, WAVESPEED_PRICE, body({"upload": {}})).paid is False


TICKET = {
    "upload": {"method": "put", "url": "https://elsewhere.example/x"},
    "download_url": "https://cdn.example/x.png",
}


@pytest.mark.parametrize(
    ("change", "upload", "is_ticket"),
    [
        ({}, {}, True),
        ({"download_url": None}, {}, False),
        ({}, {"url": None}, False),
        ({}, {"method": "POST"}, False),
        ({}, {"method": None}, False),
    ],
)
def test_a_ticket_names_two_addresses_and_the_one_way_to_send(change, upload, is_ticket):
    ticket = {**TICKET, **change, "upload": {**TICKET["upload"], **upload}}
    answers = [WAVESPEED_PRICE, body(ticket), reply(b""), WAVESPEED_CREATED]
    if is_ticket:
        assert play(WAVESPEED.submit(WAVESPEED.plan(IMAGE)), answers)[1] == {"id": ID}
    else:
        assert failing(BadAnswer, WAVESPEED, IMAGE, WAVESPEED_PRICE, body(ticket)).paid is False


@pytest.mark.parametrize(
    ("status", "message", "kind", "asked"),
    [
        (400, "bad size", RequestRefused, 2),
        (401, "no", KeyRefused, 2),
        (499, "no credits", BalanceTooLow, 2),
        (500, "no credits", Unavailable, 12),
        (302, "no", Unavailable, 12),
    ],
)
def test_an_upload_that_is_refused_ends_at_once_and_one_that_is_not_taken_is_tried_again(status, message, kind, asked):
    calls, submission = [], WAVESPEED.submit(WAVESPEED.plan(IMAGE))
    call = next(submission)
    with pytest.raises(kind) as caught:
        while True:
            calls.append(call)
            call = submission.send(WAVESPEED_PRICE if len(calls) == 1 else reply({"message": message}, status))
    assert type(caught.value) is kind and caught.value.paid is False
    assert len(calls) == asked and calls[1].json == {"filename": "image.png", "size": 24, "content_type": "image/png"}


def test_a_file_that_did_not_arrive_is_sent_again_and_its_headers_are_the_tickets():
    headers = {"X-Sign": "a", "X-Number": 5}
    ticket = {**TICKET, "upload": {**TICKET["upload"], "headers": headers}}
    answers = [WAVESPEED_PRICE, body(ticket), reply(b"", 500), reply(b""), WAVESPEED_CREATED]
    calls, end = play(WAVESPEED.submit(WAVESPEED.plan(IMAGE)), answers)
    assert [call.method for call in calls] == ["POST", "POST", "PUT", "PUT", "POST"] and end == {"id": ID}
    assert calls[3].headers == {"X-Sign": "a"} and not calls[3].authorize
    answers = (WAVESPEED_PRICE, body(ticket), reply(b"", 500))
    assert failing(Unavailable, WAVESPEED, IMAGE, *answers).paid is False
