"""What a person reads about a paid call that left no picture: whether it cost anything, and what to do next."""

import sqlite3

import pytest
from flux_krea.nodes.jobs import sentences
from flux_krea.nodes.jobs.job_record import ACCEPTED, DELIVERED, DONE, FAILED, RESERVED, SENDING, SPENT, UNKNOWN
from flux_krea.nodes.jobs.job_record import JobRecord as Record
from flux_krea.nodes.jobs.sentences import DRAW_AGAIN, ORDER_AGAIN, RUN_AGAIN
from flux_krea.nodes.providers.contract import (
    BadAnswer,
    Cancelled,
    ContentRefused,
    GenerationFailed,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)


def record(state=RESERVED, **values):
    return Record("fake", "fake/krea", "0" * 40, {}, id="7", state=state, **values)


COSTS = "It has to be paid all the same."
ORDER = f"{ORDER_AGAIN} (job 7)"
KEPT = f"The job is paid and kept. {RUN_AGAIN}"
FREE = "Nothing was paid."


@pytest.mark.parametrize(
    "state, fault, next_step",
    [
        (SPENT, GenerationFailed("Failed.", paid=True), f" {COSTS} {ORDER}"),
        (SPENT, GenerationFailed("Failed.", paid=None), f" {ORDER}"),
        (ACCEPTED, UnknownOutcome("Lost.", paid=True), f" {COSTS} {ORDER}"),
        (ACCEPTED, UnknownOutcome("Lost.", paid=None), f" {ORDER}"),
        (ACCEPTED, UnknownOutcome("Run again to collect it.", paid=None), ""),
        (ACCEPTED, BadAnswer("Unreadable.", paid=True), f" {KEPT}"),
        (ACCEPTED, Unavailable("Down; run again to collect it.", paid=True), f" {COSTS}"),
        (ACCEPTED, Unavailable("No room; it is kept in memory.", paid=True), f" {COSTS}"),
        (DELIVERED, Unavailable("Down.", paid=False), f" {KEPT}"),
        (DELIVERED, UnknownOutcome("Down.", paid=None), f" {KEPT}"),
        (DELIVERED, Unavailable("Down; run again to collect it, which is paid.", paid=None), ""),
        (RESERVED, Unavailable("Down.", paid=False), f" {FREE}"),
        (FAILED, RequestRefused("Refused.", paid=False), f" {FREE}"),
        (RESERVED, Unavailable("Without a journal no picture is paid.", paid=False), ""),
        (RESERVED, Cancelled("Cancelled.", paid=False), ""),
        (UNKNOWN, UnknownOutcome("Lost.", paid=None), ""),
        (UNKNOWN, UnknownOutcome("Lost.", paid=True), f" {COSTS}"),
        (DONE, BadAnswer("The picture, which was paid, is damaged.", paid=True), ""),
    ],
)
def test_every_error_says_once_whether_it_cost_and_what_to_do(state, fault, next_step):
    said = str(fault)
    told = sentences.with_next_step(fault, record(state))
    assert told is fault and str(told) == said + next_step
    assert told.paid is True or state != DELIVERED


def test_a_node_that_draws_its_seeds_is_not_told_to_press_anything():
    assert sentences.order_again(record(seedless_key="wish/7")) == f"{DRAW_AGAIN} (job 7)"


@pytest.mark.parametrize(
    "state, paid", [(RESERVED, False), (SENDING, None), (UNKNOWN, None), (ACCEPTED, True), (DELIVERED, True)]
)
def test_what_nobody_foresaw_is_said_without_its_words_and_with_what_is_known_of_the_money(state, paid):
    told = sentences.unforeseen(KeyError("words of an answer"), record(state), "Fake")
    assert (str(told), told.paid) == ("Fake answered something unforeseen (KeyError).", paid)


@pytest.mark.parametrize(
    "fault, words",
    [
        (UnknownOutcome("Lost.", paid=None), "nobody knows whether it was paid"),
        (BadAnswer("Unreadable.", paid=True), "it has to be paid and cannot be fetched"),
    ],
)
def test_a_lost_order_says_where_it_was_looked_for_and_what_it_may_cost(fault, words):
    told = sentences.still_lost(fault, record(UNKNOWN), "It is not in its list of jobs")
    expected = f"{fault} It is not in its list of jobs: {words}. Nothing is sent again by itself. {ORDER}"
    assert (str(told), told.paid) == (expected, fault.paid)


@pytest.mark.parametrize("note, kind", [("NSFW content.", ContentRefused), ("It broke.", GenerationFailed)])
def test_what_left_no_picture_before_is_refused_as_it_was_then(note, kind):
    told = sentences.left_no_picture(record(SPENT, note=note, sent=0.0))
    assert type(told) is kind and told.paid is None
    assert f"left no picture: {note} Now nothing was sent." in str(told)


def test_an_order_of_an_earlier_run_that_was_lost_may_have_been_paid():
    told = sentences.asked_before("Fake", record(UNKNOWN))
    assert told.paid is None and "sent to Fake on " in str(told) and "Look at your account there." in str(told)


@pytest.mark.parametrize(
    "error, what, remedy",
    [
        (OSError("No space left on device"), "The disk has no room", "make room,"),
        (sqlite3.OperationalError("database or disk is full"), "The disk has no room", "make room,"),
        (sqlite3.OperationalError("locked"), "The journal of paid jobs cannot be written", "close the program that"),
    ],
)
def test_what_cannot_be_written_down_is_paid_and_says_what_is_in_its_way(error, what, remedy):
    told = sentences.no_room(error, record(ACCEPTED), "/pictures")
    assert told.paid is True and str(told).startswith(f"{what} ({error}), at /pictures. The job is paid")
    assert f"as long as ComfyUI runs: {remedy}" in str(told)


@pytest.mark.parametrize(
    "error, words, paid",
    [
        (sqlite3.OperationalError("locked"), "The journal cannot be used (locked); without it nothing is paid.", False),
        (OSError("read-only"), "The journal cannot be used (read-only); without it nothing is paid.", False),
        (KeyError("a secret"), "API Krea failed (KeyError). What was paid is in its journal.", None),
    ],
)
def test_whoever_waits_hears_of_everything_as_a_sentence(error, words, paid):
    told = sentences.as_user_error(error)
    assert type(told) is Unavailable and (str(told), told.paid) == (words, paid)
    assert sentences.as_user_error(told) is told
