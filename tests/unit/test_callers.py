"""Who waits for a paid call: handles that join it and leave it again, and what each of them is shown."""

from types import SimpleNamespace

import pytest
from flux_krea.nodes.jobs.callers import Callers
from flux_krea.nodes.jobs.handle import Handle
from flux_krea.nodes.providers.contract import Cancelled, Progress

MAKING = Progress("making", 0.5)


@pytest.fixture
def deserted():
    """How often the last caller left."""
    return []


@pytest.fixture
def callers(deserted):
    callers = Callers(lambda: deserted.append(callers.deserted.is_set()))
    return callers


@pytest.fixture
def call(callers):
    """As much of a paid call as a handle knows."""
    return SimpleNamespace(callers=callers)


def nobody(progress):
    """A caller who looks at nothing."""


def test_a_call_learns_once_that_the_last_of_its_callers_has_left(callers, deserted):
    seen = []
    assert callers.join(seen.append) and callers.join(nobody)
    callers.leave(seen.append)
    callers.leave(seen.append)
    callers.show(MAKING)
    assert (seen, deserted) == ([], []) and not callers.deserted.is_set()
    callers.leave(nobody)
    callers.leave(nobody)
    assert deserted == [True] and callers.deserted.is_set()


def test_who_joins_a_deserted_call_in_time_keeps_it(callers):
    callers.join(nobody)
    callers.leave(nobody)
    assert callers.join(nobody) and not callers.deserted.is_set()
    assert callers.close_if_deserted() is False and callers.join(print)


def test_nobody_joins_a_deserted_call_that_is_being_stopped(callers):
    callers.join(nobody)
    callers.leave(nobody)
    assert callers.close_if_deserted() is True and callers.join(nobody) is False


def test_a_call_that_is_over_is_joined_by_nobody_and_deserted_by_nobody(callers, deserted):
    callers.join(nobody)
    callers.close()
    assert callers.close_if_deserted() is False and callers.join(print) is False
    callers.leave(nobody)
    assert deserted == [] and not callers.deserted.is_set()


def test_who_was_sent_away_has_left_and_the_call_goes_on(callers, deserted):
    seen = []
    callers.join(seen.append)
    callers.send_away()
    callers.show(MAKING)
    callers.leave(seen.append)
    assert seen == [] and deserted == [] and callers.join(nobody)


# A handle on several calls


@pytest.mark.parametrize(("count", "text"), [(1, "making"), (2, "1 of 2: making"), (8, "1 of 8: making")])
def test_a_handle_shows_which_of_several_calls_speaks(callers, call, count, text):
    shown = []
    handle = Handle("fake/0123", shown.append)
    assert handle.progress.text == "waiting"
    assert handle.join(call, 0, count) is True
    callers.show(MAKING)
    assert shown == [handle.progress] == [Progress(text, 0.5)]


def test_a_page_that_cannot_be_shown_anything_ends_no_call(callers, call):
    def refuse(progress):
        raise RuntimeError("the page is gone")

    handles = [Handle("fake/0123", refuse), Handle("fake/0123")]
    for handle in handles:
        handle.join(call, 0, 1)
    callers.show(MAKING)
    assert [handle.progress for handle in handles] == [MAKING] * 2


def test_a_cancelled_handle_leaves_its_calls_and_shows_nothing_more(callers, call, deserted):
    second = Handle("fake/0123")
    first = Handle("fake/0123", lambda progress: second.cancel())
    for handle in (first, second):
        handle.join(call, 0, 1)
    callers.show(MAKING)
    second.finish(RuntimeError("too late"))
    assert (first.progress, second.progress.text, deserted) == (MAKING, "waiting", [])
    with pytest.raises(Cancelled, match=r"^Cancelled\.$"):
        second.result(0)
    first.cancel()
    assert deserted == [True]


def test_a_handle_that_was_cancelled_before_it_could_join_leaves_at_once(callers, call, deserted):
    handle = Handle("fake/0123")
    handle.cancel()
    assert handle.join(call, 0, 1) is True and deserted == [True]


def test_a_handle_learns_that_a_call_is_over(callers, call):
    handle = Handle("fake/0123")
    callers.close()
    assert handle.join(call, 0, 1) is False
