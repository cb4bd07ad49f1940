"""fal: a queue with logs, a cancel that works, per-megapixel prices, and the only Redux."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from .answers import (
    Site,
    as_dict,
    bad_job,
    error_text,
    finite_number,
    first_text,
    is_about_content,
    lost,
    moment,
    own_url,
    picture_urls,
    refusal,
    safe_id,
)
from .contract import (
    IMAGE_TO_IMAGE,
    REDUX,
    TEXT_TO_IMAGE,
    Answer,
    Call,
    ContentRefused,
    Delivery,
    Estimate,
    Following,
    GenerationFailed,
    GenerationRequest,
    Job,
    Parameter,
    Plan,
    Progress,
    Provider,
    ProviderError,
    RequestRefused,
    Search,
    Submission,
    Unavailable,
    money,
)
from .payload import ACCELERATIONS, MEGAPIXEL, PayloadBuilder, Size, png_size, seed32, snap
from .polling import NewLines, poll

SITE = Site("fal", "https://fal.ai/dashboard/keys", "https://fal.ai/dashboard/billing")
HOSTS = ("queue.fal.run", "api.fal.ai")
QUEUE = "https://queue.fal.run"
APP = "fal-ai/flux"  # what follows it in an endpoint is a path, and is not part of the addresses of its jobs
ENDPOINTS = {
    TEXT_TO_IMAGE: "fal-ai/flux/krea",
    IMAGE_TO_IMAGE: "fal-ai/flux/krea/image-to-image",
    REDUX: "fal-ai/flux/krea/redux",
}
PRESETS: dict[str, Size] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
USD_PER_MEGAPIXEL = 0.025
MAX_IMAGES = 4
MAX_SIDE = 14142  # fal's own limit on a custom side
MAX_AREA = 4 * MEGAPIXEL
HISTORY_PAGES = 6  # of 100 requests
ONE_DAY = 23 * 3600.0  # seconds; what fal's history lists unless asked for more

_COMMON = {
    "steps": Parameter("renamed", "num_inference_steps", minimum=1, maximum=50, default=28),
    "guidance": Parameter("renamed", "guidance_scale", minimum=1, maximum=20, default=4.5),
    "seed": Parameter("passthrough", "seed", "the lower 32 bits"),
    "images": Parameter("renamed", "num_images", "more than 4 become several paid calls", 1, MAX_IMAGES, 1),
    "acceleration": Parameter("passthrough", "acceleration", default="none", choices=ACCELERATIONS),
    "safety_checker": Parameter("renamed", "enable_safety_checker", default=True),
    "output_format": Parameter(
        "converted", "output_format", "webp becomes png", default="jpeg", choices=("png", "jpeg", "webp")
    ),
    "quality": Parameter("unsupported", note="fal writes JPEG at quality 95", default=95),
}
_SIZE = Parameter("converted", "image_size", "multiples of 16, at most 4 megapixels", 16, MAX_SIDE, "landscape_4_3")
_PROMPT = Parameter("passthrough", "prompt")
_IMAGE = Parameter("renamed", "image_url", "sent as a data URI")
_FOLLOWS_IMAGE = Parameter("unsupported", note="the size follows the input image")

PARAMETERS = {
    TEXT_TO_IMAGE: {"prompt": _PROMPT, "width": _SIZE, "height": _SIZE, **_COMMON},
    IMAGE_TO_IMAGE: {
        "prompt": _PROMPT,
        "image": _IMAGE,
        "strength": Parameter("passthrough", "strength", minimum=0.01, maximum=1, default=0.95),
        "width": _FOLLOWS_IMAGE,
        "height": _FOLLOWS_IMAGE,
        **_COMMON,
        "steps": Parameter("renamed", "num_inference_steps", minimum=10, maximum=50, default=40),
    },
    REDUX: {
        "prompt": Parameter("unsupported", note="fal's Redux takes an image and no prompt", default=""),
        "image": _IMAGE,
        "width": _SIZE,
        "height": _SIZE,
        **_COMMON,
    },
}


def plan(request: GenerationRequest) -> Plan:
    payload = PayloadBuilder(SITE.label, PARAMETERS, request, MAX_IMAGES)
    if request.mode != REDUX:
        payload.pass_on("prompt")
    if request.mode == IMAGE_TO_IMAGE:
        payload.pass_on("strength")
        size = None  # fal does not say how it rounds an input's sides
    else:
        size = _delivered_size(request)
        image_size = {"width": size[0], "height": size[1]}
        payload.set_size(size, {"image_size": image_size}, "fal gets multiples of 16, at most 4 megapixels")
    payload.pass_on("steps", "guidance", "images", "safety_checker")
    payload.set("seed", seed32(request.seed), "fal gets the lower 32 bits of a seed")
    payload.set("acceleration", payload.choice("acceleration"))
    kind = payload.choice("output_format")
    payload.set("output_format", "png" if kind == "webp" else kind, "fal writes png and jpeg")
    payload.merge_extra()
    return payload.plan(ENDPOINTS[request.mode], payload.fields, size)


def estimate(request: GenerationRequest) -> Estimate:
    price = f"{money(USD_PER_MEGAPIXEL)} a megapixel, rounded up"
    if request.mode != IMAGE_TO_IMAGE:
        width, height = _delivered_size(request)
    elif request.image:
        width, height = png_size(request.image)
    else:
        return Estimate(None, f"{price}, by the size of the input image")
    usd, dear = (
        request.images * USD_PER_MEGAPIXEL * math.ceil(width * height / unit) for unit in (MEGAPIXEL, 1_000_000)
    )
    # fal does not say whether its megapixel is 1024² or 10⁶ pixels; its own example prices fit 1024².
    doubt = f"; {money(dear)} if fal counts a megapixel as 1,000,000" if dear > usd else ""
    return Estimate(usd, price + doubt)


def follow(job: Job, request: GenerationRequest) -> Following:
    status_url, result_url, cancel_url = _addresses(job)
    cancel = Call("PUT", cancel_url)
    ask = Call("GET", _with_logs(status_url), cancel=cancel, progress=Progress("Sent to fal"))
    status = yield from poll(ask, _StatusReader(), SITE)
    fetch = Call("GET", result_url, progress=Progress("fal is done", 1.0))
    return (yield from poll(fetch, lambda answer: _read_result(answer, status, request, job), SITE))


def submit(plan: Plan) -> Submission:
    answer = yield Call("POST", f"{QUEUE}/{plan.endpoint}", json=_with_image(plan), paid=True)
    if not answer.ok:
        raise _submit_refusal(answer)
    body = as_dict(answer.json())
    request_id = safe_id(body.get("request_id"))
    if request_id is None:
        raise lost(SITE)
    urls = {name: own_url(body.get(name), HOSTS) for name in ("status_url", "response_url", "cancel_url")}
    return {"request_id": request_id} | {name: url for name, url in urls.items() if url}


def _with_image(plan: Plan) -> dict[str, Any]:
    return {**plan.payload, **({"image_url": _data_uri(plan.image)} if plan.image else {})}


def _submit_refusal(answer: Answer) -> ProviderError:
    if _declined(answer):
        return Unavailable(
            f"fal answered {answer.status}: {error_text(answer)}. Nothing was accepted; try again later."
        )
    if answer.status == 422 and _names_content_policy(answer):
        return ContentRefused(f"fal refused the content: {error_text(answer)}. Change the prompt or the image.")
    return refusal(answer, SITE)


def _declined(answer: Answer) -> bool:
    """fal names its own failures, and says that it does not bill them; a proxy's 5xx names nothing."""
    return answer.status >= 500 and bool(_error_type(answer))


def _addresses(job: Mapping[str, Any]) -> tuple[str, str, str]:
    """Status, result and cancel: as fal gave them where they are fal's own, else as its own client builds them."""
    request_id = safe_id(job.get("request_id"))
    if request_id is None:
        raise bad_job(SITE)
    base = f"{QUEUE}/{APP}/requests/{request_id}"
    return (
        own_url(job.get("status_url"), HOSTS) or f"{base}/status",
        own_url(job.get("response_url"), HOSTS) or base,
        own_url(job.get("cancel_url"), HOSTS) or f"{base}/cancel",
    )


def _with_logs(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}logs=1"


class _StatusReader:
    def __init__(self) -> None:
        self._new_lines = NewLines()

    def __call__(self, answer: Answer) -> Progress | dict[str, Any] | None:
        """A Progress, the final status object, or None. Failure is COMPLETED too."""
        body = as_dict(answer.json()) if answer.ok else {}
        status = body.get("status")
        if status == "IN_QUEUE":
            ahead = finite_number(body.get("queue_position"))
            return Progress("In fal's queue" if ahead is None else f"In fal's queue, {ahead:.0f} ahead")
        if status == "IN_PROGRESS":
            logs = body.get("logs")
            return Progress("fal is generating", logs=self._new_lines(logs if isinstance(logs, list) else ()))
        return body if status == "COMPLETED" else None


def _read_result(answer: Answer, status: Mapping[str, Any], request: GenerationRequest, job: Job) -> Delivery | None:
    if answer.ok:
        return _delivery(answer, request, job)
    failure = first_text(status.get("error")) or first_text(status.get("error_type"))
    text = error_text(answer) if answer.status == 422 else failure or error_text(answer)
    if answer.status == 422:
        if is_about_content(text) or _names_content_policy(answer):
            raise ContentRefused(f"fal refused the content: {text}. Change the prompt or the image.", paid=None)
        raise RequestRefused(f"fal refused the values: {text}. fal may bill a 422 that used its GPU.", paid=None)
    if failure:
        raise GenerationFailed(f"fal's job failed: {text}. fal does not bill its own failures; run again.", paid=False)
    return None  # where the status names no failure, 401, 429 and 5xx say nothing about the job


def _names_content_policy(answer: Answer) -> bool:
    detail = as_dict(answer.json()).get("detail")
    items = detail if isinstance(detail, list) else ()
    return any(as_dict(item).get("type") == "content_policy_violation" for item in items)


def _delivery(answer: Answer, request: GenerationRequest, job: Job) -> Delivery | None:
    body = as_dict(answer.json())
    images = body.get("images")
    if not isinstance(images, list):
        return None
    found = [(urls[0], index) for index, image in enumerate(images) if (urls := picture_urls(image))][: request.images]
    if not found:
        return None
    seed = body.get("seed")
    units = finite_number(answer.headers.get("x-fal-billable-units"))
    return Delivery(
        pictures=tuple(url for url, _ in found),
        flags=tuple(_flag(body, index, len(images), request.safety_checker) for _, index in found),
        seed=seed if type(seed) is int and 0 <= seed < 2**64 else seed32(request.seed),
        cost_usd=None if units is None else units * USD_PER_MEGAPIXEL,
        request_id=job["request_id"],
        withheld=max(0, request.images - len(found)),
    )


def _flag(body: Mapping[str, Any], index: int, count: int, checked: bool) -> bool | None:
    """fal answers all-false when its checker is off: that is "not checked"."""
    flags = body.get("has_nsfw_concepts")
    if not checked or not isinstance(flags, list) or len(flags) != count:
        return None
    return flags[index] if isinstance(flags[index], bool) else None


def find_lost(plan: Plan, age: float) -> Search:
    """One look into fal's request history, which lists requests once they ended: the caller looks again later.

    It lists the last day by fal's own clock. For an older call the time comes from that clock too, never from ours.
    """
    url = (
        "https://api.fal.ai/v1/models/requests/by-endpoint"
        f"?endpoint_id={quote(plan.endpoint, safe='')}&limit=100&expand=payloads"
    )
    wanted, found, cursor, since = _with_image(plan), [], "", ""
    for _ in range(HISTORY_PAGES):
        answer = yield Call("GET", url + since + cursor, max_answer=64 * 2**20, progress=Progress("Looking at fal"))
        if age > ONE_DAY and not since and (now := moment(answer.headers.get("date"))):
            start = datetime.fromtimestamp(now - age - 3600.0, timezone.utc)
            since = f"&start={start:%Y-%m-%dT%H:%M:%SZ}"
            continue
        body = as_dict(answer.json()) if answer.ok else {}
        items = body.get("items")
        for item in map(as_dict, items if isinstance(items, list) else ()):
            sent, request_id = as_dict(item.get("json_input")), safe_id(item.get("request_id"))
            if request_id and all(key in sent and sent[key] == value for key, value in wanted.items()):
                found.append({"request_id": request_id})
        following = body.get("next_cursor")
        if not isinstance(following, str) or not following:
            break
        cursor = f"&cursor={quote(following, safe='')}"
    return tuple(found)


def _error_type(answer: Answer) -> str:
    return first_text(answer.headers.get("x-fal-error-type")) or first_text(as_dict(answer.json()).get("error_type"))


def _delivered_size(request: GenerationRequest) -> Size:
    asked = (request.width, request.height)
    return asked if asked in PRESETS.values() else snap(*asked, longest=MAX_SIDE, area=MAX_AREA)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


PROVIDER = Provider(
    label=SITE.label,
    key_variable="FAL_KEY",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"Authorization": f"Key {key}"},
    plan=plan,
    submit=submit,
    follow=follow,
    find_lost=find_lost,
    estimate=estimate,
    parameters=PARAMETERS,
    max_images=MAX_IMAGES,
    presets=PRESETS,
    picture_hosts=("fal.media", "v3.fal.media", "storage.googleapis.com"),
    declined=_declined,
    check=Call("GET", "https://api.fal.ai/v1/models/pricing?endpoint_id=fal-ai%2Fflux%2Fkrea"),
)
