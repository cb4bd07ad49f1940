"""Answers into facts: texts of errors, addresses of pictures, and the patience to wait for a job. Sends nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .contract import (
    Answer,
    BadAnswer,
    BalanceTooLow,
    Call,
    ContentRefused,
    KeyRefused,
    Progress,
    ProviderError,
    RateLimited,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)

T = TypeVar("T")

FIRST_POLL = 0.25  # seconds between polls at first, and for how long; later one a second
FIRST_POLLS = 2.5
PATIENCE = 30 * 60.0  # seconds of waiting after which a job is left for the next run to collect
COLLECT_LATER = "The job is kept: run again with the same settings to collect it, nothing is paid twice."

_TEXT_LIMIT = 300  # error bodies may echo a whole base64 image
# "error" comes late: beside a "message" it is often no more than "Bad Request".
_SPEAKING_KEYS = ("detail", "message", "msg", "error", "error_message", "reason", "title")
_PICTURE_KEYS = ("url", "images", "image", "output", "result", "data")
_CONTENT = re.compile(r"nsfw|content[ _-]?(policy|moderation)|moderat", re.IGNORECASE)
_BALANCE = re.compile(r"balance|insufficient|\bcredits?\b|top[ _-]?up|\block(ed)?\b", re.IGNORECASE)
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_GONE = (401, 403, 404, 410)


@dataclass(frozen=True)
class Site:
    """A provider's name and the two pages that its users are sent to."""

    label: str
    keys: str
    billing: str


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one: wrong types read like missing fields."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """A finite number that is not negative, from JSON or from a header."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) and parsed >= 0 else None


def safe_id(value: Any) -> str | None:
    """An id that may stand in a URL's path."""
    return value if isinstance(value, str) and _SAFE_ID.fullmatch(value) else None


def own_url(url: Any, hosts: Iterable[str]) -> str | None:
    """The URL if it is plain https to one of the hosts, else None."""
    if not isinstance(url, str) or not re.fullmatch(r"[!-\[\]-~]{1,2048}", url):  # no space, control sign or backslash
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme != "https" or parts.username is not None or port not in (None, 443):
        return None
    return url if parts.hostname in tuple(hosts) else None


def picture_urls(value: Any, depth: int = 4) -> tuple[str, ...]:
    """Every picture address in a URL, a list or an object, in order.

    http passes here: the client refuses it, except from the address that replaces the provider's hosts in tests.
    """
    if isinstance(value, str):
        return (value,) if value.startswith(("https://", "http://", "data:image/")) else ()
    if depth == 0:
        return ()
    if isinstance(value, list):
        return tuple(url for item in value for url in picture_urls(item, depth - 1))
    for key in _PICTURE_KEYS:
        if found := picture_urls(mapping(value).get(key), depth - 1):
            return found
    return ()


def words(value: Any, depth: int = 4) -> str:
    """The text of an error, wherever the provider put it: cut, on one line, "" when there is none."""
    if isinstance(value, str):
        return " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * _TEXT_LIMIT]).split())[:_TEXT_LIMIT]
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (words(item, depth - 1) for item in value[:3])))[:_TEXT_LIMIT]
    for key in _SPEAKING_KEYS:
        if text := words(mapping(value).get(key), depth - 1):
            place = mapping(value).get("loc")
            named = f"{place[-1]}: {text}" if isinstance(place, list) and place else text
            return words(named)
    return ""


def error_text(answer: Answer) -> str:
    body = answer.json()
    if body is None:
        raw = answer.body[: 4 * _TEXT_LIMIT].decode("utf-8", "replace").strip()
        return "an HTML page" if raw.startswith("<") else words(raw) or "nothing"
    return words(body).rstrip(".") or "no explanation"


def is_about_content(text: str) -> bool:
    return bool(_CONTENT.search(text))


def is_about_balance(text: str) -> bool:
    return bool(_BALANCE.search(text))


def retry_after(answer: Answer) -> float | None:
    """Seconds to wait, from the header or the body."""
    for value in (answer.headers.get("retry-after"), mapping(answer.json()).get("retry_after")):
        if (seconds := number(value)) is not None:
            return min(seconds, 600.0)
    return None


def refusal(answer: Answer, site: Site, paid_call: bool = True) -> ProviderError:
    """What an answer outside 2xx means for a call that starts a job (or, with paid_call=False, prepares one)."""
    status, text = answer.status, error_text(answer)
    said = f"{site.label} answered {status}: {text}"
    if status == 402 or (status == 403 and is_about_balance(text)):
        return BalanceTooLow(f"{said}. Top up at {site.billing}.")
    if status == 429:
        wait = retry_after(answer)
        when = "in a moment" if wait is None else f"in {wait:.0f} s"
        return RateLimited(f"{said}. Nothing was accepted; try again {when}.", retry_after=wait)
    if 400 <= status < 500 and status != 401 and is_about_content(text):
        return ContentRefused(f"{said}. Change the prompt or the image.")
    if status in (401, 403):
        return KeyRefused(f"{said}. Check the key at {site.keys}.")
    if 400 <= status < 500:
        return RequestRefused(f"{said}. Change the named value and run again.")
    if not paid_call:
        return Unavailable(f"{said}. Nothing was paid; try again later.")
    if status >= 500:
        return UnknownOutcome(f"{said}. It may have accepted the job: look at {site.billing} first.", paid=None)
    return BadAnswer(f"{said}, which is no answer to a job. Look at {site.billing} before running again.", paid=None)


def lost(site: Site) -> UnknownOutcome:
    """A 2xx answer to the paid call from which no job can be read."""
    return UnknownOutcome(
        f"{site.label} took the request, but its answer names no job. It may be paid: look at {site.billing}.",
        paid=None,
    )


def bad_job(site: Site) -> BadAnswer:
    return BadAnswer(f"The saved job of {site.label} cannot be read. Run with reuse off to start a new one.", paid=True)


class NewLines:
    """Logs come whole at every poll; this keeps what was not seen yet."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, lines: Iterable[Any]) -> tuple[str, ...]:
        texts = [text for line in lines if (text := words(line))]
        fresh = texts[self._seen :]
        self._seen = max(self._seen, len(texts))
        return tuple(fresh[-20:])


def watch(
    call: Call, read: Callable[[Answer], Progress | T | None], site: Site, paid: bool = True
) -> Generator[Call, Answer, T]:
    """Send a free call until `read` makes something final of the answer, and return that.

    `read` returns a Progress while the job is under way, None for an answer that is of no use (sent again, ever more
    slowly, a limited number of times), anything else when it is done; it raises what is final.
    """
    pause, waited, useless = call.delay, 0.0, 0
    while waited < PATIENCE:
        answer = yield replace(call, delay=pause)
        waited += pause
        seen = read(answer)
        if isinstance(seen, Progress):
            useless = 0
            call = replace(call, progress=seen)
            slower = min(max(pause, FIRST_POLL) * 1.6, 1.0 if waited < 60 else 3.0)
            pause = FIRST_POLL if waited < FIRST_POLLS else slower
        elif seen is not None:
            return seen
        else:
            useless += 1
            if useless > (2 if answer.status in _GONE else 10):
                raise _useless(answer, site, paid)
            pause = max(min(2.0 ** (useless - 1), 15.0), min(retry_after(answer) or 0.0, 60.0))
    raise UnknownOutcome(f"{site.label} has not finished after {PATIENCE / 60:.0f} minutes. {COLLECT_LATER}", paid=paid)


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
        return RateLimited(f"{said}. {next_step}", paid=paid, retry_after=retry_after(answer))
    return Unavailable(f"{said}. {next_step}", paid=paid)
