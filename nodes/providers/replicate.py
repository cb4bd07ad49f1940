"""Replicate: create, poll, cancel. Pictures that its checker flags are dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any

from .answers import (
    Site,
    as_dict,
    bad_job,
    first_text,
    is_about_content,
    lost,
    own_url,
    picture_urls,
    refusal,
    safe_id,
    unread_list,
)
from .contract import (
    IMAGE_TO_IMAGE,
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
    Search,
    Submission,
    Upload,
    money,
)
from .payload import (
    ACCELERATIONS,
    KREA_SIZES,
    PayloadBuilder,
    Size,
    megapixel_presets,
    nonzero_seed32,
    png_size,
    ratio_and_megapixels,
)
from .polling import NewLines, poll

SITE = Site("Replicate", "https://replicate.com/account/api-tokens", "https://replicate.com/account/billing")
HOSTS = ("api.replicate.com",)
API = "https://api.replicate.com/v1"
MODEL = "black-forest-labs/flux-krea-dev"
USD_PER_IMAGE = 0.025
MAX_IMAGES = 4
MAX_INPUT_SIDE = 1440  # larger input images are scaled down by the model
LISTED_PAGES = 6  # of 100 predictions

_COMMON = {
    "prompt": Parameter("passthrough", "prompt"),
    "steps": Parameter("renamed", "num_inference_steps", minimum=1, maximum=50, default=28),
    "guidance": Parameter("passthrough", "guidance", minimum=0, maximum=10, default=3),
    "seed": Parameter("converted", "seed", "the lower 32 bits; 0 means random here and becomes 4294967294"),
    "images": Parameter("renamed", "num_outputs", "more than 4 become several paid calls", 1, MAX_IMAGES, 1),
    "acceleration": Parameter(
        "converted",
        "go_fast",
        "regular and high both mean fp8, where a seed does not repeat",
        default="regular",
        choices=ACCELERATIONS,
    ),
    "safety_checker": Parameter("converted", "disable_safety_checker", "the opposite switch", default=True),
    "output_format": Parameter(
        "converted", "output_format", "jpeg is called jpg", default="webp", choices=("png", "jpeg", "webp")
    ),
    "quality": Parameter("renamed", "output_quality", "not for png", 0, 100, 80),
}
_SIZE = Parameter(
    "converted",
    "aspect_ratio, megapixels",
    "the nearest of eleven ratios at 1 or 0.25 megapixels",
    default="1:1 at 1 megapixel",
)
_FOLLOWS_IMAGE = Parameter("unsupported", note="the size follows the input image")

PARAMETERS = {
    TEXT_TO_IMAGE: {**_COMMON, "width": _SIZE, "height": _SIZE},
    IMAGE_TO_IMAGE: {
        **_COMMON,
        "image": Parameter("renamed", "image", "uploaded as a file"),
        "strength": Parameter("renamed", "prompt_strength", minimum=0, maximum=1, default=0.8),
        "width": _FOLLOWS_IMAGE,
        "height": _FOLLOWS_IMAGE,
    },
}


def krea_input(label: str, request: GenerationRequest) -> tuple[PayloadBuilder, Size | None]:
    """The model's own input, and the size it delivers. core.today sells this same model."""
    payload = PayloadBuilder(label, PARAMETERS, request, MAX_IMAGES)
    payload.pass_on("prompt", "steps", "guidance", "images", "quality")
    payload.set("seed", nonzero_seed32(request.seed), f"{label} gets 32 bits, and takes 0 for random")
    _put_speed(payload)
    payload.set("safety_checker", not request.safety_checker)
    kind = payload.choice("output_format")
    payload.set("output_format", "jpg" if kind == "jpeg" else kind)
    size: Size | None
    if request.mode == IMAGE_TO_IMAGE:
        payload.pass_on("strength")
        size = _image_size(request.image or b"")
    else:
        ratio, megapixels, size = ratio_and_megapixels(request.width, request.height, KREA_SIZES)
        reason = f"{label} makes eleven ratios at 1 or 0.25 megapixels"
        payload.set_size(size, {"aspect_ratio": ratio, "megapixels": megapixels}, reason)
    payload.merge_extra()
    return payload, size


def _put_speed(payload: PayloadBuilder) -> None:
    asked = payload.choice("acceleration")
    fast = asked != "none" and payload.request.mode == TEXT_TO_IMAGE
    payload.set("acceleration", fast)
    if fast:
        payload.record_change(
            "acceleration", asked, "go_fast", f"{payload.label} has one fast mode, in which no seed repeats"
        )
    elif asked != "none":
        payload.record_change("acceleration", asked, "none", f"{payload.label} is fast in text to image only")


def _image_size(image: bytes) -> Size | None:
    """The size an input keeps: sides that are multiples of 16 and not scaled down. Else only Replicate knows."""
    sides = png_size(image)
    return sides if all(side % 16 == 0 and 0 < side <= MAX_INPUT_SIDE for side in sides) else None


def plan(request: GenerationRequest) -> Plan:
    payload, size = krea_input(SITE.label, request)
    return payload.plan(MODEL, {"input": payload.fields}, size)


def estimate(request: GenerationRequest) -> Estimate:
    return Estimate(request.images * USD_PER_IMAGE, f"{money(USD_PER_IMAGE)} a picture, whatever its size")


def follow(job: Job, request: GenerationRequest) -> Following:
    prediction_id = safe_id(job.get("id"))
    if prediction_id is None:
        raise bad_job(SITE)
    url = f"{API}/predictions/{prediction_id}"
    cancel = Call("POST", f"{url}/cancel")
    ask = Call("GET", url, cancel=cancel, progress=Progress("Sent to Replicate"))
    return (yield from poll(ask, _Reader(request, prediction_id), SITE))


def submit(plan: Plan) -> Submission:
    fields = dict(plan.payload["input"])
    if plan.image:
        fields["image"] = yield from _upload(plan.image)
    answer = yield Call("POST", f"{API}/models/{MODEL}/predictions", json={"input": fields}, paid=True)
    if not answer.ok:
        raise refusal(answer, SITE)
    prediction_id = safe_id(as_dict(answer.json()).get("id"))
    if prediction_id is None:
        raise lost(SITE)
    return {"id": prediction_id}


def _upload(image: bytes) -> Generator[Call, Answer, str]:
    def read(answer: Answer) -> str | None:
        if 400 <= answer.status < 500:
            raise refusal(answer, SITE)
        # The model fetches the image with our token: it must lie at Replicate.
        return own_url(as_dict(as_dict(answer.json()).get("urls")).get("get"), HOSTS) if answer.ok else None

    call = Call(
        "POST",
        f"{API}/files",
        files=(Upload("content", "image.png", image),),
        progress=Progress("Uploading the image to Replicate"),
    )
    return (yield from poll(call, read, SITE, paid=False))


class _Reader:
    """Reads a prediction object: a Progress, the Delivery, or None; raises how it ended without pictures."""

    def __init__(self, request: GenerationRequest, prediction_id: str):
        self._request = request
        self._id = prediction_id
        self._new_lines = NewLines()

    def __call__(self, answer: Answer) -> Progress | Delivery | None:
        body = as_dict(answer.json()) if answer.ok else {}
        status = body.get("status")
        logs = text if isinstance(text := body.get("logs"), str) else ""
        if status in ("failed", "canceled", "aborted"):
            raise _ending(status, first_text(body.get("error")))
        if status == "succeeded" or (isinstance(status, str) and body.get("completed_at")):
            return self._delivery(body, logs)
        if not isinstance(status, str):
            return None
        text = "Replicate is starting the model" if status == "starting" else "Replicate is generating"
        return Progress(text, _fraction(logs), self._new_lines(logs.splitlines()))

    def _delivery(self, body: Mapping[str, Any], logs: str) -> Delivery | None:
        pictures = picture_urls(body.get("output"))[: self._request.images]
        if not pictures and body.get("data_removed") is True:
            raise GenerationFailed("Replicate deleted the pictures, as it does an hour after making them.", paid=True)
        if not pictures:
            return None
        seed = re.search(r"Using seed: (\d{1,10})\b", logs)
        return Delivery(
            pictures=pictures,
            # Flagged pictures are left out of the output, so what came through a running checker passed it.
            flags=(False if self._request.safety_checker else None,) * len(pictures),
            seed=int(seed[1]) if seed else nonzero_seed32(self._request.seed),
            request_id=self._id,
            withheld=self._request.images - len(pictures),
        )


def _ending(status: str, text: str) -> ContentRefused | GenerationFailed:
    if status == "canceled":
        return GenerationFailed("The job was cancelled at Replicate, which bills what had run by then.", paid=True)
    if status == "aborted":
        return GenerationFailed("Replicate's deadline passed before the job started. Nothing is billed; run again.")
    if is_about_content(text):
        return ContentRefused(f"Replicate withheld every picture: {text} Change the prompt or the image.", paid=True)
    return GenerationFailed(f"Replicate's job failed: {text or 'no reason given'}. It may be billed.", paid=None)


def _fraction(logs: str) -> float | None:
    """The last line of a progress bar, such as ` 54%|#####     | 15/28`."""
    bars = re.findall(r"^\s*(\d{1,3})%\s*\|", logs[-4000:], re.MULTILINE)
    return min(int(bars[-1]), 100) / 100 if bars else None


def find_lost(plan: Plan, age: float) -> Search:
    """One look at the account's predictions, newest first and so without any clock: the caller looks again later."""
    if plan.image:
        return ()  # each upload has its own address, so no listed job can be told to be this one
    url, found = f"{API}/predictions", []
    for _ in range(LISTED_PAGES):
        answer = yield Call("GET", url, max_answer=64 * 2**20, progress=Progress("Looking for the job at Replicate"))
        body = as_dict(answer.json()) if answer.ok else {}
        results = body.get("results")
        if not isinstance(results, list):
            break
        for item in map(as_dict, results):
            sent, prediction_id = as_dict(item.get("input")), safe_id(item.get("id"))
            wanted = plan.payload["input"]
            same = all(key in sent and sent[key] == value for key, value in wanted.items()) and "image" not in sent
            if prediction_id and item.get("model") == MODEL and same:
                found.append({"id": prediction_id})
        following = own_url(body.get("next"), HOSTS)
        if following is None:
            return tuple(found)
        url = following
    if not found:
        raise unread_list(answer, SITE)
    return tuple(found)


PROVIDER = Provider(
    label=SITE.label,
    key_variable="REPLICATE_API_TOKEN",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"Authorization": f"Bearer {key}"},
    plan=plan,
    submit=submit,
    follow=follow,
    find_lost=find_lost,
    estimate=estimate,
    parameters=PARAMETERS,
    max_images=MAX_IMAGES,
    presets=megapixel_presets(KREA_SIZES),
    picture_hosts=("replicate.delivery", "pbxt.replicate.delivery"),
    check=Call("GET", f"{API}/account"),
)
