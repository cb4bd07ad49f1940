"""fal: a queue with logs, a cancel that works, per-megapixel prices, and the only Redux.

Two apps: `flux/krea`, and `flux-krea-lora` for whatever has a LoRA or a mask. They differ in ranges, defaults and price,
and in where their jobs are found: a job keeps its app.
"""

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
    unread_list,
)
from .contract import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    REDUX,
    TEXT_TO_IMAGE,
    WITH_LORA,
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
from .loras import is_address_or_hugging_face_id, taken_by
from .payload import ACCELERATIONS, MEGAPIXEL, PayloadBuilder, Size, png_size, seed32, snap
from .polling import NewLines, poll

SITE = Site("fal", "https://fal.ai/dashboard/keys", "https://fal.ai/dashboard/billing")
HOSTS = ("queue.fal.run", "api.fal.ai")
QUEUE = "https://queue.fal.run"
APP, LORA_APP = "fal-ai/flux", "fal-ai/flux-krea-lora"  # as they stand in the addresses of their jobs
ENDPOINTS = {
    TEXT_TO_IMAGE: "fal-ai/flux/krea",
    IMAGE_TO_IMAGE: "fal-ai/flux/krea/image-to-image",
    REDUX: "fal-ai/flux/krea/redux",
}
LORA_ENDPOINTS = {
    TEXT_TO_IMAGE: LORA_APP,
    IMAGE_TO_IMAGE: f"{LORA_APP}/image-to-image",
    INPAINTING: f"{LORA_APP}/inpainting",
}
PRESETS: dict[str, Size] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
USD_PER_MEGAPIXEL = {APP: 0.025, LORA_APP: 0.035}
LORA_STRENGTHS = (0.0, 4.0)
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
_LORAS = Parameter("renamed", "loras", "https addresses and Hugging Face ids, by flux-krea-lora at $0.035 a megapixel")

PARAMETERS = {
    TEXT_TO_IMAGE: {"prompt": _PROMPT, "width": _SIZE, "height": _SIZE, "loras": _LORAS, **_COMMON},
    IMAGE_TO_IMAGE: {
        "prompt": _PROMPT,
        "image": _IMAGE,
        "loras": _LORAS,
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
_OF_LORA_APP = {
    "prompt": _PROMPT,
    "loras": _LORAS,
    **_COMMON,
    "guidance": Parameter("renamed", "guidance_scale", minimum=0, maximum=35, default=3.5),
    "acceleration": Parameter(
        "converted", "acceleration", "high becomes regular", default="none", choices=ACCELERATIONS
    ),
}
_WITH_IMAGE = {
    "image": _IMAGE,
    "strength": Parameter("passthrough", "strength", minimum=0.01, maximum=1, default=0.85),
    "width": _FOLLOWS_IMAGE,
    "height": _FOLLOWS_IMAGE,
}
LORA_PARAMETERS = {
    TEXT_TO_IMAGE: {**_OF_LORA_APP, "width": _SIZE, "height": _SIZE},
    IMAGE_TO_IMAGE: {**_OF_LORA_APP, **_WITH_IMAGE},
    INPAINTING: {
        **_OF_LORA_APP,
        **_WITH_IMAGE,
        "mask": Parameter("renamed", "mask_url", "white is repainted; sent as a data URI"),
    },
}


def plan(request: GenerationRequest) -> Plan:
    with_lora = _app_of(request) == LORA_APP
    payload = PayloadBuilder(SITE.label, LORA_PARAMETERS if with_lora else PARAMETERS, request, MAX_IMAGES)
    if request.mode != REDUX:
        payload.pass_on("prompt")
    if request.mode in (IMAGE_TO_IMAGE, INPAINTING):
        payload.pass_on("strength")
        size = None  # fal does not say how it rounds an input's sides
    else:
        size = _delivered_size(request)
        image_size = {"width": size[0], "height": size[1]}
        payload.set_size(size, {"image_size": image_size}, "fal gets multiples of 16, at most 4 megapixels")
    payload.pass_on("steps", "guidance", "images", "safety_checker")
    payload.set("seed", seed32(request.seed), "fal gets the lower 32 bits of a seed")
    _put_speed(payload, with_lora)
    kind = payload.choice("output_format")
    payload.set("output_format", "png" if kind == "webp" else kind, "fal writes png and jpeg")
    if with_lora:
        kinds = "https addresses and Hugging Face ids of LoRAs"
        loras = taken_by(SITE.label, request, is_address_or_hugging_face_id, kinds, LORA_STRENGTHS)
        payload.set("loras", [{"path": lora.path, "scale": lora.strength} for lora in loras])
    payload.refuse_extra("sync_mode")
    payload.merge_extra()
    return payload.plan((LORA_ENDPOINTS if with_lora else ENDPOINTS)[request.mode], payload.fields, size)


def _app_of(request: GenerationRequest) -> str:
    """The cheaper app, unless a LoRA or a mask needs the other; Redux has neither."""
    return LORA_APP if request.mode in LORA_ENDPOINTS and (request.loras or request.mode == INPAINTING) else APP


def _put_speed(payload: PayloadBuilder, with_lora: bool) -> None:
    asked = payload.choice("acceleration")
    most = "regular" if with_lora and asked == "high" else asked
    payload.set("acceleration", most, "fal's app for LoRAs and masks knows no faster one")


def estimate(request: GenerationRequest) -> Estimate:
    usd_per_megapixel = USD_PER_MEGAPIXEL[_app_of(request)]
    price = f"{money(usd_per_megapixel)} a megapixel, rounded up"
    if request.mode not in (IMAGE_TO_IMAGE, INPAINTING):
        width, height = _delivered_size(request)
    elif request.image:
        width, height = png_size(request.image)
    else:
        return Estimate(None, f"{price}, by the size of the input image")
    usd, dear = (
        request.images * usd_per_megapixel * math.ceil(width * height / unit) for unit in (MEGAPIXEL, 1_000_000)
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
    answer = yield Call("POST", f"{QUEUE}/{plan.endpoint}", json=_with_images(plan), paid=True)
    if not answer.ok:
        raise _submit_refusal(answer)
    body = as_dict(answer.json())
    request_id = safe_id(body.get("request_id"))
    if request_id is None:
        raise lost(SITE)
    urls = {name: own_url(body.get(name), HOSTS) for name in ("status_url", "response_url", "cancel_url")}
    return _job(plan, request_id) | {name: url for name, url in urls.items() if url}


def _job(plan: Plan, request_id: str) -> dict[str, Any]:
    return {"request_id": request_id} | ({"app": LORA_APP} if plan.endpoint.startswith(LORA_APP) else {})


def _with_images(plan: Plan) -> dict[str, Any]:
    images = {"image_url": plan.image, "mask_url": plan.mask}
    return {**plan.payload, **{name: _data_uri(image) for name, image in images.items() if image}}


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
    base = f"{QUEUE}/{_app_of_job(job)}/requests/{request_id}"
    return (
        own_url(job.get("status_url"), HOSTS) or f"{base}/status",
        own_url(job.get("response_url"), HOSTS) or base,
        own_url(job.get("cancel_url"), HOSTS) or f"{base}/cancel",
    )


def _app_of_job(job: Job) -> str:
    return LORA_APP if job.get("app") == LORA_APP else APP


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
        if request.loras and "lora" in text.lower():
            raise RequestRefused(f"fal cannot use a LoRA: {text}. fal may bill a 422 that used its GPU.", paid=None)
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
        cost_usd=None if units is None else units * USD_PER_MEGAPIXEL[_app_of_job(job)],
        request_id=job["request_id"],
        withheld=request.images - len(found),
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
    wanted, found, cursor, since = _with_images(plan), [], "", ""
    for _ in range(HISTORY_PAGES):
        answer = yield Call("GET", url + since + cursor, max_answer=64 * 2**20, progress=Progress("Looking at fal"))
        if age > ONE_DAY and not since and (now := moment(answer.headers.get("date"))):
            start = datetime.fromtimestamp(now - age - 3600.0, timezone.utc)
            since = f"&start={start:%Y-%m-%dT%H:%M:%SZ}"
            continue
        body = as_dict(answer.json()) if answer.ok else {}
        items = body.get("items")
        if not isinstance(items, list):
            break
        for item in map(as_dict, items):
            sent, request_id = as_dict(item.get("json_input")), safe_id(item.get("request_id"))
            if request_id and all(key in sent and sent[key] == value for key, value in wanted.items()):
                found.append(_job(plan, request_id))
        following = body.get("next_cursor")
        if not isinstance(following, str) or not following:
            return tuple(found)
        cursor = f"&cursor={quote(following, safe='')}"
    if not found:
        raise unread_list(answer, SITE)
    return tuple(found)


def _error_type(answer: Answer) -> str:
    return first_text(answer.headers.get("x-fal-error-type")) or first_text(as_dict(answer.json()).get("error_type"))


def _delivered_size(request: GenerationRequest) -> Size:
    asked = (request.width, request.height)
    return asked if asked in PRESETS.values() else snap(*asked, longest=MAX_SIDE, area=MAX_AREA)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


_ON_THE_PAGE = {mode + WITH_LORA: LORA_PARAMETERS[mode] for mode in (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)}

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
    parameters=PARAMETERS | {INPAINTING: LORA_PARAMETERS[INPAINTING]} | _ON_THE_PAGE,
    max_images=MAX_IMAGES,
    presets=PRESETS,
    picture_hosts=("fal.media", "v3.fal.media", "storage.googleapis.com"),
    declined=_declined,
    check=Call("GET", "https://api.fal.ai/v1/models/pricing?endpoint_id=fal-ai%2Fflux%2Fkrea"),
)
