"""The receipt: who made a picture, what it cost and what was checked, from the report that is wired to Krea Save.

Only fields that are named here, in the form that they have here, get into a file. So another pack's text, an address
or a path in a report does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WORD = re.compile(r"[A-Za-z0-9](?:[\w .:+()\[\]-]{0,118}[\w)\]])?", re.ASCII)
LARGEST = 2**64
MOST_IDS = 100
NOT_CHECKED = "not checked"
FROM_PICTURE = ("image_to_image", "inpainting")
ASKED_INPUTS = ("width", "height", "steps", "guidance", "strength", "images", "seed")
REASONS = ("score", "score_not_a_number", "non_finite_pixels", "provider", "provider_unknown")
REDACTIONS = ("black", "blur")


@dataclass(frozen=True)
class Report:
    """What is wired to `report`, apart: each part is empty where nothing of its kind was in it."""

    provider: Mapping[str, Any]
    safety: Mapping[str, Any]
    review: Mapping[str, Any]
    complaint: str = ""
    placed: bool = True  # whether it is known which of the provider's pictures each of these is

    @property
    def from_image(self) -> bool:
        return self.provider.get("mode") in FROM_PICTURE

    def without_verdicts(self, complaint: str) -> Report:
        """Who made it, and nothing of what was checked."""
        return Report(_unflagged(self.provider), {}, {}, complaint, self.placed and not self.safety)


def read_report(text: object, count: int) -> Report:
    """The reports in a text; several may stand one behind the other. What is wrong with it is said in `complaint`."""
    if text is None or isinstance(text, str) and not text.strip():
        return Report({}, {}, {})
    if not isinstance(text, str):
        return Report({}, {}, {}, f"report is no text but {type(text).__name__}: it was left out.")
    found = _documents(text)
    provider = _first(found, ("provider", "request_ids", "has_nsfw_concepts"))
    safety = _first(found, ("detector", "per_image", "returned"))
    review = _first(found, ("review_code", "reviewed", "images"))
    nested = safety.get("provider_report")
    if not provider and isinstance(nested, dict):
        provider = nested
    if not (provider or safety or review):
        return Report({}, {}, {}, "report is none of API Krea, Krea Safety Check or Krea Review Gate: it was left out.")
    complaints, placed, flags = [], True, len(_list(provider, "has_nsfw_concepts"))
    if safety and len(_list(safety, "returned")) != count:
        said = f"Krea Safety Check's report is about {len(_list(safety, 'returned'))} images, and these are {count}"
        complaints.append(f"{said}: the receipt says “{NOT_CHECKED}”.")
        safety, placed = {}, False
    elif provider and flags != (len(_list(safety, "per_image")) if safety else count):
        about = (
            f"and Krea Safety Check's is about {len(_list(safety, 'per_image'))}"
            if safety
            else f"and these are {count}"
        )
        complaints.append(f"API Krea's report is about {flags} images, {about}: the receipt says “{NOT_CHECKED}”.")
        placed = False
    if review and not (type(review["images"]) is int and review["images"] == count):
        told = review["images"] if type(review["images"]) is int else "no number of"
        said = f"Krea Review Gate's report is about {told} images, and these are {count}"
        complaints.append(f"{said}: the receipt says nothing of a review.")
        review = {}
    return Report(provider if placed else _unflagged(provider), safety, review, "\n".join(complaints), placed)


def _unflagged(provider: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in provider.items() if name != "has_nsfw_concepts"}


def receipt_of(report: Report, index: int, count: int, size: tuple[int, int]) -> dict[str, Any]:
    """The receipt of one of `count` pictures, whose size is (width, height). It always says what was checked."""
    width, height = size
    place = _place(report, index)
    receipt: dict[str, Any] = {"width": width, "height": height}
    if report.provider:
        receipt |= _provider_part(report.provider, place if report.placed else None)
    return receipt | {"safety": _safety_part(report, place)}


def _place(report: Report, index: int) -> int | None:
    """Which picture of the batch that was generated this is: Krea Safety Check may have left some out."""
    if not report.safety:
        return index
    place = _list(report.safety, "returned")[index]
    return place if type(place) is int and place >= 0 else None


def _provider_part(provider: Mapping[str, Any], place: int | None) -> dict[str, Any]:
    """Without a place it is not known which of the provider's pictures this one is."""
    pictures = _list(provider, "pictures")
    delivered = pictures[place] if place is not None and place < len(pictures) else {}
    delivered = delivered if isinstance(delivered, dict) else {}
    changes = [change for change in _list(provider, "changes") if isinstance(change, dict)]
    changes = [change for change in changes if change.get("input") in ASKED_INPUTS]
    part = {
        "provider": word(provider.get("provider")),
        "mode": word(provider.get("mode")),
        "request_ids": [id for id in map(word, _list(provider, "request_ids")[:MOST_IDS]) if id],
        "seed" if place == 0 else "seed_of_first_picture": _number(provider.get("seed")),
        "picture": None if place is None else place + 1,
        "pictures": len(pictures) or None,
        "delivered_width": _number(delivered.get("width")),
        "delivered_height": _number(delivered.get("height")),
        "asked": {change["input"]: _number(change.get("asked")) for change in changes} or None,
        "estimated_usd_of_all": _number(provider.get("estimated_usd")),
        "billed_usd_of_all": _number(provider.get("billed_usd")),
        "already_paid_pictures": _number(provider.get("already_paid_pictures")),
    }
    return {name: value for name, value in part.items() if value not in (None, [], {})}


def _safety_part(report: Report, place: int | None) -> dict[str, Any]:
    """`checked` is true where a detector, a provider or a person has looked at this very picture."""
    part: dict[str, Any] = {"local_check": NOT_CHECKED}
    verdicts = [each for each in _list(report.safety, "per_image") if isinstance(each, dict)]
    verdict = next((each for each in verdicts if place is not None and each.get("index") == place), {})
    if isinstance(verdict.get("flagged"), bool):
        part |= _local_part(report.safety, verdict)
    if report.provider:
        part["provider_check"] = _provider_flag(report, place)
    if report.review.get("reviewed") is True:
        part["reviewed_by_a_person"] = True
    looked = part["local_check"] != NOT_CHECKED or part.get("provider_check", NOT_CHECKED) != NOT_CHECKED
    return {"checked": looked or "reviewed_by_a_person" in part, **part}


def _local_part(safety: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    part = {
        "local_check": "flagged" if verdict["flagged"] else "passed",
        "detector": word(safety.get("detector")),
        "detector_sha256": word(safety.get("detector_sha256")),
        "threshold": _number(safety.get("threshold")),
        "score": _number(verdict.get("score")),
        "reasons": [reason for reason in REASONS if reason in _list(verdict, "reasons")] or None,
        "redacted": safety.get("action") if verdict["flagged"] and safety.get("action") in REDACTIONS else None,
    }
    return {name: value for name, value in part.items() if value is not None}


def _provider_flag(report: Report, place: int | None) -> str:
    flags = _list(report.provider, "has_nsfw_concepts")
    flag = flags[place] if place is not None and place < len(flags) else None
    return {True: "flagged", False: "not flagged"}.get(flag, NOT_CHECKED) if isinstance(flag, bool) else NOT_CHECKED


def _documents(text: str) -> list[Mapping[str, Any]]:
    """The JSON objects at the beginning of a text, one behind the other; none where it is no JSON."""
    found: list[Mapping[str, Any]] = []
    decoder, at = json.JSONDecoder(), 0
    while (start := _after_space(text, at)) < len(text):
        try:
            document, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []
        if isinstance(document, dict):
            found.append(document)
    return found


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _first(documents: list[Mapping[str, Any]], names: tuple[str, ...]) -> Mapping[str, Any]:
    return next((each for each in documents if all(name in each for name in names)), {})


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def word(value: object) -> str | None:
    """A name or an id, None for anything else: no path, no address, no sentence of many lines."""
    return value if isinstance(value, str) and WORD.fullmatch(value) and ".." not in value else None


def _number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < LARGEST else None  # no NaN, no infinity
