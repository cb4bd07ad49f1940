"""Answers into facts: texts of errors, addresses of pictures, what a refusal means. Sends nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from .contract import (
    Answer,
    BadAnswer,
    BalanceTooLow,
    ContentRefused,
    KeyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)

_TEXT_LIMIT = 300  # error bodies may echo a whole base64 image
# "error" comes late: beside a "message" it is often no more than "Bad Request".
_SPEAKING_KEYS = ("detail", "message", "msg", "error", "errors", "error_message", "reason", "title")
_PICTURE_KEYS = ("url", "images", "image", "output", "result", "data")
_CONTENT = re.compile(r"nsfw|content[ _-]?(policy|moderation)|moderat", re.IGNORECASE)
_BALANCE = re.compile(r"balance|insufficient|\bcredits?\b|top[ _-]?up|\block(ed)?\b", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,20}://|(?:data|file|ftp|blob|javascript):", re.IGNORECASE)
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
GONE = (401, 403, 404, 410)  # a job that is not known, a picture that is not or no longer there


@dataclass(frozen=True)
class Site:
    """A provider's name and the two pages that its users are sent to."""

    label: str
    keys: str
    billing: str


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one: wrong types read like missing fields."""
    return value if isinstance(value, dict) else {}


def finite_number(value: Any) -> float | None:
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

    An address of any kind passes: the client refuses all but https and data:, at once and with a sentence, and http too
    except from the address that replaces the provider's hosts in tests.
    """
    if isinstance(value, str):
        return (value,) if _ADDRESS.match(value) else ()
    if depth == 0:
        return ()
    if isinstance(value, list):
        return tuple(url for item in value for url in picture_urls(item, depth - 1))
    for key in _PICTURE_KEYS:
        if found := picture_urls(as_dict(value).get(key), depth - 1):
            return found
    return ()


def first_text(value: Any, depth: int = 4) -> str:
    """The text of an error, wherever the provider put it: cut, on one line, "" when there is none."""
    if isinstance(value, str):
        return " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * _TEXT_LIMIT]).split())[:_TEXT_LIMIT]
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (first_text(item, depth - 1) for item in value[:3])))[:_TEXT_LIMIT]
    for key in _SPEAKING_KEYS:
        if text := first_text(as_dict(value).get(key), depth - 1):
            place = as_dict(value).get("loc")
            named = f"{place[-1]}: {text}" if isinstance(place, list) and place else text
            return first_text(named)
    return ""


def error_text(answer: Answer) -> str:
    body = answer.json()
    if body is None:
        raw = answer.body.decode("utf-8", "replace").strip()
        return "an HTML page" if raw.startswith("<") else first_text(raw) or "nothing"
    return first_text(body).rstrip(".") or "no explanation"


def is_about_content(text: str) -> bool:
    return bool(_CONTENT.search(text))


def is_about_balance(text: str) -> bool:
    return bool(_BALANCE.search(text))


def retry_after(answer: Answer) -> float | None:
    """Seconds that the provider asks to wait, in the header (seconds, or a date by its own clock) or in the body."""
    header = answer.headers.get("retry-after")
    for value in (header, as_dict(answer.json()).get("retry_after")):
        if (seconds := finite_number(value)) is not None:
            return seconds
    until, now = moment(header), moment(answer.headers.get("date"))
    return max(0.0, until - now) if until is not None and now is not None else None


def moment(http_date: str | None) -> float | None:
    """Seconds since 1970 of a date as HTTP headers write it."""
    try:
        return parsedate_to_datetime(http_date).timestamp() if http_date else None
    except (TypeError, ValueError, OverflowError):
        return None


def in_words(seconds: float) -> str:
    """How long somebody has to wait: "12 s", "5 minutes", "24 hours", "3 days"."""
    if seconds > 365 * 86400.0:
        return "more than a year"
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def asks_to_wait(seconds: float | None) -> str:
    """For the end of a sentence about a refusal, "" where the provider names no time."""
    return f", and asks to wait {in_words(seconds)}" if seconds else ""


def refusal(answer: Answer, site: Site) -> ProviderError:
    """What an answer outside 2xx means for a call that starts a job; one of 400 to 499, for any call."""
    status, text = answer.status, error_text(answer)
    said = f"{site.label} answered {status}: {text}"
    if status == 402 or (status == 403 and is_about_balance(text)):
        return BalanceTooLow(f"{said}. Top up at {site.billing}.")
    if status == 429:
        wait = retry_after(answer)
        when = "in a moment" if wait is None else f"in {in_words(wait)}"
        return RateLimited(f"{said}. Nothing was accepted; try again {when}.", retry_after=wait)
    if 400 <= status < 500 and status != 401 and is_about_content(text):
        return ContentRefused(f"{said}. Change the prompt or the image.")
    if status in (401, 403):
        return KeyRefused(f"{said}. Check the key at {site.keys}.")
    if 400 <= status < 500:
        return RequestRefused(f"{said}. Change the named value and run again.")
    if status >= 500:
        return UnknownOutcome(f"{said}. It may have accepted the job: look at {site.billing} first.", paid=None)
    return BadAnswer(f"{said}, which is no answer to a job. Look at {site.billing} before running again.", paid=None)


def unread_list(answer: Answer, site: Site) -> Unavailable:
    """A list of jobs that cannot be had, or not whole: that a job is not in it would say something."""
    return Unavailable(f"The list of jobs at {site.label} cannot be read whole ({answer.status}).", paid=None)


def lost(site: Site) -> UnknownOutcome:
    """A 2xx answer to the paid call from which no job can be read."""
    return UnknownOutcome(
        f"{site.label} took the request, but its answer names no job. It may be paid: look at {site.billing}.",
        paid=None,
    )


def bad_job(site: Site) -> BadAnswer:
    return BadAnswer(f"The saved job of {site.label} cannot be read. Run with reuse off to start a new one.", paid=True)
