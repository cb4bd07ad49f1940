"""What a person is told about a paid call that did not end in a picture: what happened, whether it cost, what to do."""

from __future__ import annotations

import sqlite3

from ..providers.answers import is_about_content
from ..providers.contract import (
    BadAnswer,
    Cancelled,
    ContentRefused,
    GenerationFailed,
    ProviderError,
    Unavailable,
    UnknownOutcome,
)
from .job_record import ACCEPTED, DELIVERED, RESERVED, SENDING, SPENT, UNKNOWN, JobRecord

RUN_AGAIN = "Run again with the same settings to collect it: nothing is paid twice."
ORDER_AGAIN = (
    "To order it again all the same, and perhaps pay twice, press “Order again” on the node, change the seed or switch "
    "reuse off."
)
DRAW_AGAIN = "The next run draws another seed, and pays for another picture."


def order_again(record: JobRecord) -> str:
    """The way out of a call that must not be repeated unasked. A node that draws its seeds is never stuck on one."""
    return f"{DRAW_AGAIN if record.seedless_key else ORDER_AGAIN} (job {record.id})"


def left_no_picture(record: JobRecord) -> ProviderError:
    """For a call that was paid, or perhaps paid, for nothing: it is not sent again by itself."""
    kind = ContentRefused if is_about_content(record.note) else GenerationFailed
    return kind(
        f"Exactly this was sent on {record.sent_at} and left no picture: {record.note} Now nothing was sent.", paid=None
    )


def asked_before(label: str, record: JobRecord) -> UnknownOutcome:
    """For a call of an earlier run whose answer was lost."""
    return UnknownOutcome(
        f"Exactly this was sent to {label} on {record.sent_at} and the answer was lost; now nothing was sent. "
        "Look at your account there.",
        paid=None,
    )


def still_lost(fault: ProviderError, record: JobRecord, looked: str) -> UnknownOutcome:
    """`looked` says where it was looked for, in vain."""
    known = "it has to be paid and cannot be fetched" if fault.paid else "nobody knows whether it was paid"
    text = f"{fault} {looked}: {known}. Nothing is sent again by itself. {order_again(record)}"
    return UnknownOutcome(text, paid=fault.paid)


def no_room(error: Exception, record: JobRecord, folder: str) -> Unavailable:
    """The disk, or whatever else keeps the journal from being written, under a job that is paid."""
    is_held = isinstance(error, sqlite3.Error) and "full" not in str(error)
    what = "The journal of paid jobs cannot be written" if is_held else "The disk has no room"
    remedy = "close the program that holds it, or make room on its disk" if is_held else "make room"
    return Unavailable(
        f"{what} ({error}), at {folder}. The job is paid, and what came of it is kept in memory for as long as ComfyUI runs: "
        f"{remedy}, then run again with the same settings. Nothing is paid twice.",
        paid=True,
    )


def unforeseen(error: Exception, record: JobRecord, label: str) -> ProviderError:
    """Not the error's own text: it may quote an answer."""
    paid = {RESERVED: False, SENDING: None, UNKNOWN: None}.get(record.state, True)
    return BadAnswer(f"{label} answered something unforeseen ({type(error).__name__}).", paid=paid)


def with_next_step(fault: ProviderError, record: JobRecord) -> ProviderError:
    """The same error; its text says whether money was spent, and what to do next."""
    text = str(fault)
    if record.state == DELIVERED:
        fault.paid = True
    asks_again = record.state == ACCEPTED and isinstance(fault, UnknownOutcome) and "collect" not in text
    if record.state == SPENT or asks_again:
        text += " It has to be paid all the same." if fault.paid else ""
        text += f" {order_again(record)}"
    elif fault.paid is False and not isinstance(fault, Cancelled) and "paid" not in text:
        text += " Nothing was paid."
    elif record.state in (ACCEPTED, DELIVERED) and "collect" not in text and "kept in memory" not in text:
        text += f" The job is paid and kept. {RUN_AGAIN}"
    elif fault.paid and "paid" not in text:
        text += " It has to be paid all the same."
    fault.args = (text,)
    return fault


def as_user_error(error: BaseException) -> ProviderError:
    """Whoever waits for a generation hears of everything, as a sentence."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, (sqlite3.Error, OSError)):
        return Unavailable(f"The journal cannot be used ({error}); without it nothing is paid.")
    return Unavailable(f"API Krea failed ({type(error).__name__}). What was paid is in its journal.", paid=None)
