"""A record as it is read back from disk, as the page shows it, and how old its paid call is by two clocks."""

import json
from types import SimpleNamespace

import pytest
from flux_krea.nodes.jobs import job_record
from flux_krea.nodes.jobs.job_record import (
    ACCEPTED,
    CANCELLED,
    CLOCKS_AGREE,
    DELIVERED,
    DONE,
    SPENT,
    UNKNOWN,
    JobRecord,
    record_of,
)

LEAST = {"id": "0" * 32, "hash": "h", "state": DONE, "provider": "fal", "endpoint": "e", "request": {}}
NOW, UP = 1_700_000_000.0, 500_000.0


@pytest.fixture
def clocks(monkeypatch):
    monkeypatch.setattr(job_record, "time", SimpleNamespace(time=lambda: NOW))
    monkeypatch.setattr(job_record, "uptime", lambda: UP)


def record(**values):
    return JobRecord("fal", "e", "h", {}, **values)


# Reading back


def test_what_was_written_comes_back_also_with_what_a_later_version_may_add():
    written = record(job={"id": "7"}, delivery={"pictures": ["x"]}, pictures=["a.png"], owner="9-a", billed=1, sent=2.5)
    assert record_of(written.as_json()) == written
    assert record_of(json.dumps({**json.loads(written.as_json()), "later": 1})) == written
    assert record_of(json.dumps(LEAST)).id == LEAST["id"]


@pytest.mark.parametrize("missing", LEAST)
def test_a_record_without_what_every_record_has_is_none(missing):
    with pytest.raises(ValueError, match="not the record of a job"):
        record_of(json.dumps({name: value for name, value in LEAST.items() if name != missing}))


@pytest.mark.parametrize("content", [5, None, "text", [LEAST], []])
def test_what_is_no_object_is_no_record(content):
    with pytest.raises(ValueError, match="not the record of a job"):
        record_of(json.dumps(content))


NUMBERS = ("reserved", "created", "sent", "sent_uptime", "updated", "bytes", "billed", "collected")
TEXTS = ("id", "hash", "provider", "endpoint", "budget_key", "owner", "note", "seedless_key")
ODD = [
    ("state", "dome"),
    *((name, [1]) for name in ("request", "job", "delivery")),
    *((name, "5") for name in NUMBERS),
    *((name, 5) for name in TEXTS),
    ("pictures", ["a.png", 5]),
]


@pytest.mark.parametrize(("name", "value"), ODD)
def test_one_odd_value_makes_a_record_unreadable(name, value):
    with pytest.raises(ValueError, match="not the record of a job"):
        record_of(json.dumps({**LEAST, name: value}))


# For people


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"state": DONE}, "ready"),
        ({"state": DONE, "owner": "9-a"}, "under way"),
        ({"state": UNKNOWN}, "answer lost"),
        ({"state": UNKNOWN, "owner": "9-a"}, "under way"),
        ({"state": ACCEPTED}, "interrupted"),
        ({"state": DELIVERED}, "interrupted"),
    ],
)
def test_a_waiting_job_is_said_to_be_what_it_is(values, told):
    assert record(**values).waits_as == told


@pytest.mark.parametrize("state", [UNKNOWN, SPENT, DONE, ACCEPTED, CANCELLED])
@pytest.mark.parametrize("collected", [None, NOW])
def test_only_a_loss_that_a_person_has_dismissed_is_put_aside(state, collected):
    assert record(state=state, collected=collected).is_put_aside is (state in (UNKNOWN, SPENT) and collected == NOW)


def test_a_call_is_said_to_have_left_when_it_did_and_not_when_it_was_planned():
    assert record(created=NOW - 7200, sent=NOW).sent_at == record(created=NOW).sent_at
    assert record(created=NOW - 7200, sent=NOW).sent_at != record(created=NOW - 7200).sent_at


# How old the paid call is


@pytest.mark.parametrize(
    ("by_clock", "by_uptime", "seconds"),
    [
        (0.0, 0.0, 0.0),
        (50.0, 50.0, 50.0),
        (50.0 + CLOCKS_AGREE - 0.5, 50.0, 50.0),
        (50.0 - CLOCKS_AGREE + 0.5, 50.0, 50.0),
        (50.0 + CLOCKS_AGREE, 50.0, None),
        (50.0 - CLOCKS_AGREE, 50.0, None),
        (0.0, -1.0, None),  # the machine was started anew
        (None, 50.0, None),
        (50.0, None, None),
    ],
)
def test_an_age_is_told_only_where_both_clocks_agree_on_it(clocks, by_clock, by_uptime, seconds):
    sent = None if by_clock is None else NOW - by_clock
    sent_uptime = None if by_uptime is None else UP - by_uptime
    assert record(sent=sent, sent_uptime=sent_uptime).seconds_since_sent == seconds


@pytest.mark.parametrize(
    ("by_clock", "by_uptime", "seconds"),
    [
        (50.0, 50.0, 50.0),
        (50.0, 70.0, 70.0),
        (70.0, 50.0, 70.0),
        (0.25, None, 0.25),
        (-50.0, -1.0, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_for_a_look_into_the_past_the_clock_that_says_more_counts(clocks, by_clock, by_uptime, seconds):
    sent_uptime = None if by_uptime is None else UP - by_uptime
    sent = record(created=NOW - 9000, sent=NOW - by_clock, sent_uptime=sent_uptime)
    assert sent.most_seconds_since_sent == seconds
    never_said = record(created=NOW - by_clock, sent_uptime=sent_uptime)
    assert never_said.most_seconds_since_sent == seconds
