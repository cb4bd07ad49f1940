"""1min.ai: one call that blocks until the picture lies there. No status, no cancel, no flags; its price is a credit."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from .answers import (
    Site,
    as_dict,
    error_text,
    first_text,
    is_about_balance,
    is_about_content,
    picture_urls,
    refusal,
    safe_id,
)
from .contract import (
    IMAGE_TO_IMAGE,
    TEXT_TO_IMAGE,
    Answer,
    BadAnswer,
    BalanceTooLow,
    Call,
    ContentRefused,
    Delivery,
    Estimate,
    GenerationFailed,
    GenerationRequest,
    Parameter,
    Plan,
    Progress,
    Provider,
    ProviderError,
    Submission,
    Upload,
)
from .payload import ACCELERATIONS, KREA_SIZES, PayloadBuilder, Size, ratio_and_megapixels, seed32
from .polling import poll

SITE = Site("1min.ai", "https://app.1min.ai", "https://app.1min.ai")
HOSTS = ("api.1min.ai",)
API = "https://api.1min.ai/api"
MODEL = "black-forest-labs/flux-krea-dev"
SIZES = {ratio: KREA_SIZES[ratio] for ratio in ("1:1", "16:9", "9:16", "3:2", "2:3", "4:5", "5:4")}
TIMEOUT = 300.0  # seconds without a byte while it works

_COMMON = {
    "prompt": Parameter("passthrough", "prompt"),
    "steps": Parameter("renamed", "num_inference_steps", minimum=1, maximum=50, default=28),
    "guidance": Parameter("passthrough", "guidance", "its page says 50, the model behind it takes 10", 0, 10, 3.5),
    "seed": Parameter("passthrough", "seed", "the lower 32 bits"),
    "images": Parameter("emulated", note="one paid call for each picture", minimum=1, maximum=1, default=1),
    "acceleration": Parameter(
        "converted",
        "go_fast",
        "regular and high both mean fp8, where a seed does not repeat",
        default="none",
        choices=ACCELERATIONS,
    ),
    "safety_checker": Parameter("converted", "disable_safety_checker", "the opposite switch", default=True),
    "output_format": Parameter("unsupported", note="1min.ai chooses the format itself", default="webp"),
    "quality": Parameter("renamed", "output_quality", "of the format 1min.ai chooses", 0, 100, 80),
}
_SIZE = Parameter(
    "converted",
    "aspect_ratio, megapixels",
    "the nearest of seven ratios at 1 or 0.25 megapixels",
    default="1:1",
)
_FOLLOWS_IMAGE = Parameter("unsupported", note="the size follows the input image")

PARAMETERS = {
    TEXT_TO_IMAGE: {**_COMMON, "width": _SIZE, "height": _SIZE},
    IMAGE_TO_IMAGE: {
        **_COMMON,
        "image": Parameter("renamed", "image_prompt", "uploaded as an asset"),
        "strength": Parameter("renamed", "prompt_strength", minimum=0, maximum=1, default=0.8),
        "width": _FOLLOWS_IMAGE,
        "height": _FOLLOWS_IMAGE,
    },
}


def plan(request: GenerationRequest) -> Plan:
    payload = PayloadBuilder(SITE.label, PARAMETERS, request)
    payload.pass_on("prompt", "steps", "guidance", "quality")
    payload.set("seed", seed32(request.seed), "1min.ai gets the lower 32 bits of a seed")
    fast = payload.choice("acceleration") != "none"
    payload.set("acceleration", fast)
    if fast:
        payload.record_change("acceleration", request.acceleration, "go_fast", "1min.ai has one fast mode")
    payload.set("safety_checker", not request.safety_checker)
    size = None
    if request.mode == IMAGE_TO_IMAGE:
        payload.pass_on("strength")
    else:
        size = _put_size(payload)
    payload.merge_extra(("aspect_ratio", "width", "height"))  # a custom size: its price is unknown anyway
    body = {"type": "IMAGE_GENERATOR", "model": MODEL, "promptObject": payload.fields}
    return payload.plan(MODEL, body, size)


def _put_size(payload: PayloadBuilder) -> Size | None:
    width, height = payload.request.width, payload.request.height
    if payload.request.extra.get("aspect_ratio") == "custom":
        # Its page says that "custom" goes with a width and a height and lists no fields for them: extra names both.
        payload.fields["aspect_ratio"] = "custom"
        payload.record_change("size", f"{width}×{height}", "custom", "extra names a custom size")
        return None
    ratio, megapixels, size = ratio_and_megapixels(width, height, SIZES)
    reason = "1min.ai makes seven ratios at 1 or 0.25 megapixels"
    return payload.set_size(size, {"aspect_ratio": ratio, "megapixels": megapixels}, reason)


def estimate(request: GenerationRequest) -> Estimate:
    return Estimate(None, "1min.ai bills its own credits and publishes no price for this model")


def submit(plan: Plan) -> Submission:
    body = dict(plan.payload)
    if plan.image:
        path = yield from _upload(plan.image)
        body["promptObject"] = {**body["promptObject"], "image_prompt": path}
    answer = yield Call(
        "POST", f"{API}/features", json=body, paid=True, timeout=TIMEOUT, progress=Progress("1min.ai is generating")
    )
    if not answer.ok:
        raise _refusal(answer)
    return _delivery(answer, plan.payload["promptObject"]["seed"])


def _upload(image: bytes) -> Generator[Call, Answer, str]:
    def read(answer: Answer) -> str | None:
        if 400 <= answer.status < 500:
            raise _refusal(answer)
        path = as_dict(as_dict(answer.json()).get("fileContent")).get("path") if answer.ok else None
        return path if isinstance(path, str) and path else None

    call = Call(
        "POST",
        f"{API}/assets",
        files=(Upload("asset", "image.png", image),),
        progress=Progress("Uploading the image to 1min.ai"),
    )
    return (yield from poll(call, read, SITE, paid=False))


def _refusal(answer: Answer) -> ProviderError:
    text = error_text(answer)
    if answer.status in (400, 422) and is_about_balance(text):
        return BalanceTooLow(f"1min.ai answered {answer.status}: {text}. Buy credits at {SITE.billing}.")
    return refusal(answer, SITE)


def _delivery(answer: Answer, seed: int) -> Delivery:
    """Only the picture and the id: the reply also carries names, teams and credits of the account."""
    record = as_dict(as_dict(answer.json()).get("aiRecord"))
    status = record.get("status")
    if isinstance(status, str) and status != "SUCCESS":
        raise _failure(answer, record)
    # The paths in resultObject cannot be fetched, except by older replies in which they are addresses.
    result = as_dict(record.get("aiRecordDetail")).get("resultObject")
    pictures = picture_urls(record.get("temporaryUrl")) or picture_urls(result)
    if not pictures:
        raise BadAnswer(
            f"1min.ai answered without the address of a picture. It may be paid: look at {SITE.billing}.", paid=True
        )
    return Delivery(pictures[:1], (None,), seed, request_id=safe_id(record.get("uuid")))


def _failure(answer: Answer, record: Mapping[str, Any]) -> ProviderError:
    detail = as_dict(record.get("aiRecordDetail"))
    places = (answer.json(), record, detail, detail.get("responseObject"))
    text = next(filter(None, map(first_text, places)), "no reason given").rstrip(".")
    unsure = f"Whether it is billed is not documented: look at {SITE.billing}."
    if is_about_content(text):
        return ContentRefused(f"1min.ai refused the content: {text}. Change the prompt. {unsure}", paid=None)
    return GenerationFailed(f"1min.ai made no picture: {text}. {unsure}", paid=None)


PROVIDER = Provider(
    label=SITE.label,
    key_variable="ONEMIN_API_KEY",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"API-KEY": key},
    plan=plan,
    submit=submit,
    estimate=estimate,
    parameters=PARAMETERS,
    picture_hosts=("s3.us-east-1.amazonaws.com",),
)
