"""Asking after a job until it is done: how often, how long, and what an answer of no use means. Decided here alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from .answers import GONE, Site, asks_to_wait, error_text, first_text, retry_after
from .contract import (
    Answer,
    BadAnswer,
    Call,
    KeyRefused,
    Progress,
    ProviderError,
    RateLimited,
    Unavailable,
    UnknownOutcome,
)

T = TypeVar("T")

POLL_TIMES = ((2.5, 0.25), (60.0, 0.5), (300.0, 1.0))  # up to so many seconds of waiting, so many between two polls
SLOWEST_POLL = 3.0
USELESS_ANSWERS = 10  # in a row, then the next run goes on
GONE_ANSWERS = 2  # in a row of "no such job"
LONGEST_WAIT = 30 * 60.0  # seconds after which a job is left for the next run to collect
COLLECT_LATER = "The job is kept: run again with the same settings to collect it, nothing is paid twice."


def seconds_to_next_poll(waited: float) -> float:
    """After `waited` seconds: close looks at first, as many jobs take few seconds."""
    return next((pause for until, pause in POLL_TIMES if waited < until), SLOWEST_POLL)


class NewLines:
    """Logs come whole at every poll; this keeps what was not seen yet."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, lines: Iterable[Any]) -> tuple[str, ...]:
        texts = [text for line in lines if (text := first_text(line))]
        fresh = texts[self._seen :]
        self._seen = max(self._seen, len(texts))
        return tuple(fresh[-20:])


def poll(
    call: Call, read: Callable[[Answer], Progress | T | None], site: Site, paid: bool = True, least: float = 0.0
) -> Generator[Call, Answer, T]:
    """Send a free call until `read` makes something final of the answer, and return that.

    `read` returns a Progress while the job is under way, None for an answer that is of no use (sent again, ever more
    slowly, a limited number of times), anything else when it is done; it raises what is final. `least` seconds are
    between two polls, also before the first.
    """
    pause, waited, useless = max(least, seconds_to_next_poll(0.0) if call.cancel else 0.0), 0.0, 0
    while waited < LONGEST_WAIT:
        answer = yield replace(call, delay=pause)
        waited += pause
        seen = read(answer)
        if isinstance(seen, Progress):
            useless = 0
            call = replace(call, progress=seen)
            pause = max(least, seconds_to_next_poll(waited))
        elif seen is not None:
            return seen
        else:
            useless += 1
            if useless > (GONE_ANSWERS if answer.status in GONE else USELESS_ANSWERS):
                raise _useless(answer, site, paid)
            pause = max(min(2.0 ** (useless - 1), 15.0), min(retry_after(answer) or 0.0, 60.0))
    raise UnknownOutcome(
        f"{site.label} has not finished after {LONGEST_WAIT / 60:.0f} minutes. {COLLECT_LATER}", paid=paid
    )


def _useless(answer: Answer, site: Site, paid: bool) -> ProviderError:
    status = answer.status
    next_step = COLLECT_LATER if paid else "Nothing was paid; try again later."
    if answer.ok:
        return BadAnswer(f"{site.label} keeps answering something that cannot be read. {next_step}", paid=paid)
    said = f"{site.label} keeps answering {status}: {error_text(answer)}"
    if status in (401, 403):
        return KeyRefused(f"{said}. Check the key at {site.keys}. {next_step}", paid=paid)
    if status in (404, 410):
        return UnknownOutcome(f"{said}. It no longer knows the job: look at {site.billing}.", paid=paid)
    if status == 429:
        wait = retry_after(answer)
        return RateLimited(f"{said}{asks_to_wait(wait)}. {next_step}", paid=paid, retry_after=wait)
    return Unavailable(f"{said}. {next_step}", paid=paid)
