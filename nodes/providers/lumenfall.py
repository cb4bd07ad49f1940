"""Lumenfall: a gateway in OpenAI's shape that blocks until done, routed to fal or Replicate unless told which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .answers import (
    Site,
    as_dict,
    error_text,
    finite_number,
    first_text,
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
    GenerationRequest,
    KeyRefused,
    Parameter,
    Plan,
    Progress,
    Provider,
    ProviderError,
    RequestRefused,
    Submission,
    Unavailable,
    Upload,
    money,
)
from .payload import ACCELERATIONS, PayloadBuilder, Size, nonzero_seed32, png_size, seed32, snap

SITE = Site("Lumenfall", "https://lumenfall.ai/app/api_keys", "https://lumenfall.ai/app/credits")
HOSTS = ("api.lumenfall.ai",)
API = "https://api.lumenfall.ai/openai/v1"
MODEL = "flux.1-krea-dev"
FORCED_MODELS = {
    "fal/flux.1-krea-dev": "fal",
    "fal/flux.1-krea-dev-edit": "fal",
    "replicate/flux.1-krea-dev": "replicate",
}
PRESETS: dict[str, Size] = {
    "1:1": (1024, 1024),
    "16:9": (1365, 768),
    "21:9": (1563, 670),
    "3:2": (1254, 836),
    "2:3": (836, 1254),
    "4:5": (916, 1145),
    "5:4": (1145, 916),
    "3:4": (887, 1182),
    "4:3": (1183, 887),
    "9:16": (768, 1365),
    "9:21": (670, 1564),
}
KNOWN_EXTRA = ("model", "aspect_ratio", "resolution", "response_format", "acceleration", "go_fast")
USD_PER_IMAGE = 0.025
STANDARD_AREA = 1_100_000  # pixels; its "1K" sizes reach 1.05 million
MAX_IMAGES = 10
MAX_SIDE = 2048
MAX_PROMPT = 1000  # characters
MAX_ANSWER = 2**30  # bytes: ten pictures as text
TIMEOUT = 600.0  # seconds without a byte; slow models behind it have taken seven minutes

_ONLY_FORCED = 'sent only where extra names a model at fal or Replicate, such as {"model": "fal/flux.1-krea-dev"}'
_COMMON = {
    "prompt": Parameter("renamed", "prompt", f"at most {MAX_PROMPT} characters"),
    "steps": Parameter("renamed", "num_inference_steps", minimum=1, maximum=50, default=28),
    "guidance": Parameter("renamed", "cfg_scale", "the range that both its routes take", 1, 10),
    "seed": Parameter("passthrough", "seed", "the lower 32 bits"),
    "images": Parameter("emulated", "n", "made in parallel, each one paid", 1, MAX_IMAGES, 1),
    "acceleration": Parameter("converted", "acceleration, go_fast", _ONLY_FORCED, choices=ACCELERATIONS),
    "safety_checker": Parameter("converted", "enable_safety_checker, disable_safety_checker", _ONLY_FORCED),
    "output_format": Parameter("passthrough", "output_format", choices=("png", "jpeg", "webp", "avif", "gif")),
    "quality": Parameter("renamed", "output_compression", "not for png", 0, 100),
}
_SIZE = Parameter("converted", "size", "one of its 1K sizes, or multiples of 16", 16, MAX_SIDE)
_FOLLOWS_IMAGE = Parameter("unsupported", note="the size follows the input image")

PARAMETERS = {
    TEXT_TO_IMAGE: {**_COMMON, "width": _SIZE, "height": _SIZE},
    IMAGE_TO_IMAGE: {
        **_COMMON,
        "steps": Parameter("renamed", "num_inference_steps", "the range that both its routes take", 10, 50),
        "image": Parameter("renamed", "image", "sent as a file"),
        "strength": Parameter("passthrough", "strength", "the range that both its routes take", 0.01, 1),
        "width": _FOLLOWS_IMAGE,
        "height": _FOLLOWS_IMAGE,
    },
}


def plan(request: GenerationRequest) -> Plan:
    payload = PayloadBuilder(SITE.label, PARAMETERS, request, MAX_IMAGES)
    if len(request.prompt) > MAX_PROMPT:
        raise RequestRefused(
            f"The prompt has {len(request.prompt)} characters, and Lumenfall takes {MAX_PROMPT}. "
            "Shorten it, or choose another provider."
        )
    payload.fields["model"] = _model(request)
    payload.pass_on("prompt", "steps", "guidance", "images")
    payload.set("seed", _seed(request), "Lumenfall gets 32 bits of a seed, and Replicate behind it takes 0 for random")
    payload.set("output_format", payload.choice("output_format"))
    if request.output_format != "png":
        payload.pass_on("quality")
    route = FORCED_MODELS.get(payload.fields["model"])
    _put_route_fields(payload, route)
    size = None
    if request.mode == IMAGE_TO_IMAGE:
        payload.pass_on("strength")
    else:
        size = _put_size(payload)
    payload.merge_extra(KNOWN_EXTRA)
    # Replicate has no free sizes; how the gateway converts one for it is not documented.
    return payload.plan(_path(request.mode), payload.fields, None if route == "replicate" else size)


def _model(request: GenerationRequest) -> str:
    """Auto-routed, or one of the routes to this very model: a shared workflow may not choose a dearer one."""
    model = request.extra.get("model", MODEL)
    if not isinstance(model, str) or model not in (MODEL, *FORCED_MODELS):
        raise RequestRefused(
            f"extra model {model!r:.80} is not FLUX.1 Krea. Choose {', '.join((MODEL, *FORCED_MODELS))}."
        )
    return model


def _seed(request: GenerationRequest) -> int:
    to_replicate = FORCED_MODELS.get(_model(request)) == "replicate"
    return nonzero_seed32(request.seed) if to_replicate else seed32(request.seed)


def _put_route_fields(payload: PayloadBuilder, route: str | None) -> None:
    """Speed and safety have other names behind each route, and a wrong name can be refused."""
    asked, checked = payload.choice("acceleration"), payload.request.safety_checker
    if route == "fal":
        payload.fields.update(acceleration=asked, enable_safety_checker=checked)
    elif route == "replicate":
        payload.fields.update(go_fast=asked != "none", disable_safety_checker=not checked)
        if asked != "none":
            payload.record_change(
                "acceleration", asked, "go_fast", "Replicate has one fast mode, in which no seed repeats"
            )
    else:
        if asked != "none":
            payload.record_change("acceleration", asked, "the route's default", _ONLY_FORCED)
        if not checked:
            payload.record_change("safety_checker", False, "the route's default", _ONLY_FORCED)


def _put_size(payload: PayloadBuilder) -> Size | None:
    """`size` wins over ratio and tier at Lumenfall, so it is left out where extra names one of these."""
    extra, asked = payload.request.extra, (payload.request.width, payload.request.height)
    if "aspect_ratio" in extra or "resolution" in extra:
        chosen = " ".join(str(extra[key])[:20] for key in ("aspect_ratio", "resolution") if key in extra)
        payload.record_change("size", "{}×{}".format(*asked), chosen, "extra names a ratio or a tier")
        ratio, tier = extra.get("aspect_ratio", "1:1"), extra.get("resolution", "1K")
        return PRESETS.get(ratio) if isinstance(ratio, str) and tier == "1K" else None
    size = asked if asked in PRESETS.values() else snap(*asked, longest=MAX_SIDE)
    reason = "Lumenfall gets its own 1K sizes or multiples of 16, at most 2048 a side"
    return payload.set_size(size, {"size": "{}x{}".format(*size)}, reason)


def _path(mode: str) -> str:
    return "images/edits" if mode == IMAGE_TO_IMAGE else "images/generations"


def estimate(request: GenerationRequest) -> Estimate:
    if request.extra.get("resolution", "1K") != "1K":
        return Estimate(None, "Lumenfall bills higher tiers higher and does not say how much")
    if request.mode != IMAGE_TO_IMAGE:
        size = snap(request.width, request.height, longest=MAX_SIDE)
    else:
        size = png_size(request.image) if request.image else PRESETS["1:1"]
    parts = max(1, math.ceil(math.prod(size) / STANDARD_AREA))
    note = f"{money(USD_PER_IMAGE)} a picture"
    if parts > 1:
        # One of its routes bills by the megapixel: a budget must assume that one.
        note += " of 1 megapixel; larger ones are counted by the megapixel here, as fal behind it does"
    return Estimate(request.images * parts * USD_PER_IMAGE, note)


def submit(plan: Plan) -> Submission:
    call = Call(
        "POST",
        f"{API}/{plan.endpoint}",
        paid=True,
        timeout=TIMEOUT,
        max_answer=MAX_ANSWER,
        progress=Progress("Lumenfall is generating"),
    )
    if plan.image:
        form = {key: _form_text(value) for key, value in plan.payload.items()}
        answer = yield replace(call, form=form, files=(Upload("image", "image.png", plan.image),))
    else:
        answer = yield replace(call, json=dict(plan.payload))
    body = as_dict(answer.json())
    if not answer.ok or body.get("error"):  # a 200 may carry an error too
        raise _refusal(answer)
    return _delivery(body, plan.payload)


def _form_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _delivery(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Delivery:
    items = body.get("data")
    found = [url for item in (items if isinstance(items, list) else ()) if (url := _picture(as_dict(item)))]
    pictures = tuple(found[: sent["n"]])
    if not pictures:
        raise BadAnswer(
            f"Lumenfall answered without a picture. It may be paid: look at {SITE.billing} and its request list.",
            paid=True,
        )
    return Delivery(
        pictures=pictures,
        flags=(None,) * len(pictures),  # the gateway passes no flags on
        seed=sent["seed"],
        cost_usd=finite_number(as_dict(body.get("metadata")).get("cost")),
        request_id=safe_id(body.get("id")),
        withheld=sent["n"] - len(pictures),
    )


def _picture(item: Mapping[str, Any]) -> str | None:
    if urls := picture_urls(item.get("url")):
        return urls[0]
    encoded = item.get("b64_json")
    return f"data:image/png;base64,{encoded}" if isinstance(encoded, str) and encoded else None


def _refusal(answer: Answer) -> ProviderError:
    text = error_text(answer)
    said = f"Lumenfall answered {answer.status}: {text}"
    code = _error_code(answer)
    if code == "CONTENT_POLICY_VIOLATION":
        return ContentRefused(f"{said}. Change the prompt or the image.")
    if code == "INSUFFICIENT_BALANCE":
        return BalanceTooLow(f"{said}. Top up at {SITE.billing}.")
    if code == "AUTHENTICATION_FAILED":
        return KeyRefused(f"{said}. Check the key at {SITE.keys}.")
    if code == "ALL_PROVIDERS_EXHAUSTED":
        # Its own history can show a cost for these.
        return Unavailable(f"{said}. Every route failed, which may have cost something: see {SITE.billing}.", paid=None)
    if answer.ok:
        return BadAnswer(f"{said}. Look at {SITE.billing} before running again.", paid=None)
    return refusal(answer, SITE)


def _error_code(answer: Answer) -> str:
    body = as_dict(answer.json())
    places = (as_dict(body.get("error")).get("code"), body.get("error_code"), body.get("code"))
    return next(filter(None, map(first_text, places)), "")


PROVIDER = Provider(
    label=SITE.label,
    key_variable="LUMENFALL_API_KEY",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"Authorization": f"Bearer {key}"},
    plan=plan,
    submit=submit,
    estimate=estimate,
    parameters=PARAMETERS,
    max_images=MAX_IMAGES,
    presets=PRESETS,
    picture_hosts=("media.lumenfall.ai",),
    check=Call("GET", "https://api.lumenfall.ai/v1/balance"),
    # No `find_lost`: its request list stores neither prompts nor pictures, so no entry can be told to be ours.
)
