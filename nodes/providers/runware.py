"""Runware: tasks in an array, each with an id of ours. The paid call can be sent again: it is taken once.

Its page lists this model for text to image only. Input pictures are sent as its types name them, and may be refused.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping
from typing import Any

from .answers import Site, as_dict, bad_job, finite_number, first_text, is_about_content, lost, refusal, unread_list
from .contract import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    TEXT_TO_IMAGE,
    Answer,
    BalanceTooLow,
    Call,
    ContentRefused,
    Delivery,
    Estimate,
    Following,
    GenerationFailed,
    GenerationRequest,
    Job,
    KeyRefused,
    Parameter,
    Plan,
    Progress,
    Provider,
    ProviderError,
    RateLimited,
    Search,
    Submission,
    UnknownOutcome,
)
from .loras import is_air_id, taken_by
from .payload import ACCELERATIONS, PayloadBuilder, Size, at_least, png_size, seed32, snap
from .polling import poll

SITE = Site("Runware", "https://my.runware.ai/keys", "https://my.runware.ai/wallet")
HOSTS = ("api.runware.ai",)
API = "https://api.runware.ai/v1"
MODEL = "runware:107@1"
USD, USD_PIXELS, USD_STEPS = 0.0098, 1024 * 1024, 28  # its page's example; it bills by computing time
LONGEST_SIDE, SHORTEST_SIDE, STEP = 2048, 128, 64
LORA_STRENGTHS = (-4.0, 4.0)
FORMATS = {"png": "PNG", "jpeg": "JPG", "webp": "WEBP"}
# A shared workflow says neither who else gets the picture nor where it comes from; the rest is how we read the answer.
NOT_FOR_A_WORKFLOW = ("webhookURL", "uploadEndpoint", "seedImage", "maskImage", "taskUUID", "outputType")
REPEATABLE_FOR = 600.0  # seconds; how long it knows an id is not documented
# Seconds between two polls, and how many answers in a row may hold nothing before the task's record is looked at.
PATIENCE = ((0.5, 20), (3.0, 100))

_COMMON = {
    "prompt": Parameter("renamed", "positivePrompt", "2 to 3000 characters"),
    "steps": Parameter("passthrough", "steps", minimum=1, maximum=100, default=20),
    "guidance": Parameter("renamed", "CFGScale", minimum=0, maximum=50, default=7),
    "seed": Parameter("passthrough", "seed", "the lower 32 bits"),
    "images": Parameter("emulated", "numberResults", "one paid call for each picture", 1, 1, 1),
    "acceleration": Parameter(
        "unsupported",
        note="extra acceleratorOptions says it in Runware's words",
        default="none",
        choices=ACCELERATIONS,
    ),
    "safety_checker": Parameter("converted", "safety", "flagged pictures are delivered all the same", default=False),
    "output_format": Parameter("converted", "outputFormat", "in capitals", default="jpeg", choices=tuple(FORMATS)),
    "quality": Parameter("renamed", "outputQuality", "not for png", 20, 99, 95),
    "loras": Parameter("renamed", "lora", "AIR ids only, such as civitai:1234@5678"),
}
_SIZE = Parameter("converted", "width, height", "multiples of 64", SHORTEST_SIDE, LONGEST_SIDE)
_SIZE_OF_IMAGE = Parameter("converted", "width, height", "the input image's, in multiples of 64")
_WITH_IMAGE = {
    "image": Parameter("converted", "inputs", "sent as a data URI; Runware's page does not list it for this model"),
    "strength": Parameter("passthrough", "strength", minimum=0, maximum=1, default=0.8),
    "width": _SIZE_OF_IMAGE,
    "height": _SIZE_OF_IMAGE,
}
PARAMETERS = {
    TEXT_TO_IMAGE: {**_COMMON, "width": _SIZE, "height": _SIZE},
    IMAGE_TO_IMAGE: {**_COMMON, **_WITH_IMAGE},
    INPAINTING: {
        **_COMMON,
        **_WITH_IMAGE,
        "mask": Parameter("converted", "inputs", "white is repainted; sent as a data URI"),
    },
}


def plan(request: GenerationRequest) -> Plan:
    payload = PayloadBuilder(SITE.label, PARAMETERS, request)
    payload.fields |= {"taskType": "imageInference", "model": MODEL, "deliveryMethod": "async", "includeCost": True}
    payload.pass_on("prompt", "steps", "guidance", "images")
    payload.set("seed", seed32(request.seed), "Runware gets the lower 32 bits of a seed")
    payload.set("safety_checker", {"checkContent": request.safety_checker})
    payload.choice("acceleration")
    payload.set("output_format", FORMATS[payload.choice("output_format")])
    if request.output_format != "png":
        payload.pass_on("quality")
    if request.mode != TEXT_TO_IMAGE:
        payload.pass_on("strength")
    asked, size = _asked_size(request), _delivered_size(request)
    payload.set_size(
        size, {"width": size[0], "height": size[1]}, "Runware makes multiples of 64, 128 to 2048 a side", asked
    )
    loras = taken_by(SITE.label, request, is_air_id, "AIR ids of LoRAs, such as civitai:1234@5678", LORA_STRENGTHS)
    if loras:
        payload.set("loras", [{"model": lora.path, "weight": lora.strength} for lora in loras])
    payload.refuse_extra(*NOT_FOR_A_WORKFLOW)
    payload.merge_extra(("acceleratorOptions",))
    return payload.plan(MODEL, payload.fields, size)


def _asked_size(request: GenerationRequest) -> Size:
    """The input image's, where there is one."""
    return png_size(request.image) if request.image else (request.width, request.height)


def _delivered_size(request: GenerationRequest) -> Size:
    size = at_least(*_asked_size(request), SHORTEST_SIDE)
    return snap(*size, longest=LONGEST_SIDE, step=STEP, shortest=SHORTEST_SIDE)


def estimate(request: GenerationRequest) -> Estimate:
    width, height = _delivered_size(request)
    usd = USD * (width * height / USD_PIXELS) * (request.steps / USD_STEPS) * request.images
    return Estimate(round(usd, 6), "reckoned from Runware's example; it bills by computing time and tells what it was")


def submit(plan: Plan) -> Submission:
    task = {**plan.payload, "taskUUID": _task_id(plan)}
    images = {"seedImage": plan.image, "maskImage": plan.mask}
    inputs = {name: _data_uri(image) for name, image in images.items() if image}
    if inputs:
        task["inputs"] = inputs
    answer = yield Call("POST", API, json=[task], paid=True, progress=Progress("Sent to Runware"))
    body = as_dict(answer.json())
    job = {"task": task["taskUUID"]}
    if _items(body, "imageInference", job["task"]):
        return job  # whatever stands beside it
    errors = _errors_of(body, job["task"])
    if any("conflictTaskUUID" in str(error.get("code")) for error in errors):
        return job  # it has the task already, from a call whose answer was lost
    if not answer.ok or errors:
        raise _submit_refusal(answer, errors)
    raise lost(SITE)


def _task_id(plan: Plan) -> str:
    return str(uuid.UUID(plan.order_id))


def _submit_refusal(answer: Answer, errors: list[Mapping[str, Any]]) -> ProviderError:
    if not errors or answer.status >= 500 or answer.status == 429:
        return refusal(answer, SITE)
    known = _known_refusal(errors[0])
    if known is not None:
        return known
    if not answer.ok:
        return refusal(answer, SITE)
    return GenerationFailed(f"Runware answered: {first_text(errors[0])}. It may be billed.", paid=None)


def _known_refusal(error: Mapping[str, Any]) -> ProviderError | None:
    """By parts of the code's name: codes are many, and being renamed."""
    code, text = first_text(error.get("code")), first_text(error) or "no reason given"
    said = f"Runware answered {code}: {text}"
    if re.search(r"credits|quota|balance", code, re.IGNORECASE):
        return BalanceTooLow(f"{said}. Top up at {SITE.billing}.")
    if re.search(r"apikey", code, re.IGNORECASE):
        return KeyRefused(f"{said}. Check the key at {SITE.keys}.")
    if re.search(r"ratelimit", code, re.IGNORECASE):
        return RateLimited(f"{said}. Nothing was accepted; try again in a moment.")
    if _is_about_content(code, text):
        return ContentRefused(f"{said}. Change the prompt or the image.")
    return None


def _is_about_content(code: str, text: str) -> bool:
    return is_about_content(text) or bool(re.search(r"contentPolicy|nsfw|blocked|moderation", code, re.IGNORECASE))


def find_lost(plan: Plan, age: float) -> Search:
    """By our own id, so what is found is ours. Nothing found proves nothing: a task that runs may look like none."""
    task = _task_id(plan)
    for kind in ("getResponse", "getTaskDetails"):
        answer = yield Call("POST", API, json=[_question(kind, task)], progress=Progress("Looking at Runware"))
        body = as_dict(answer.json()) if answer.ok else {}
        if _items(body, "", task):
            return ({"task": task},)
    if "data" not in body:
        raise unread_list(answer, SITE)
    return ()


def follow(job: Job, request: GenerationRequest) -> Following:
    task = job.get("task")
    if not isinstance(task, str) or not re.fullmatch(r"[0-9a-f-]{36}", task):
        raise bad_job(SITE)
    ask = Call("POST", API, json=[_question("getResponse", task)], progress=Progress("Sent to Runware"))
    record = Call("POST", API, json=[_question("getTaskDetails", task)], progress=Progress("Runware is silent"))
    for pause, silent_answers in PATIENCE:
        delivery = yield from poll(ask, _ResponseReader(task, request, silent_answers), SITE, least=pause)
        if not isinstance(delivery, Delivery):
            delivery = yield from poll(record, lambda answer: _read_record(answer, task, request), SITE)
        if isinstance(delivery, Delivery):
            return delivery
    raise UnknownOutcome(f"Runware says nothing of the task any more: look at {SITE.billing}.", paid=None)


def _question(kind: str, task: str) -> dict[str, Any]:
    return {"taskType": kind, "taskUUID": task}


class _ResponseReader:
    """A Progress, the Delivery, True where the silence has lasted, or None; raises how the task ended without a picture.

    An unknown task and one that runs may be answered alike, by nothing."""

    def __init__(self, task: str, request: GenerationRequest, silent_answers: int):
        self._task, self._request = task, request
        self._left = self._silent_answers = silent_answers

    def __call__(self, answer: Answer) -> Progress | Delivery | bool | None:
        body = as_dict(answer.json()) if answer.ok else {}
        if not ("data" in body or _errors(body)):
            return None
        items = _items(body, "imageInference", self._task)
        finished = _delivery(items, self._task, self._request, _errors_of(body, self._task))
        self._left = self._silent_answers if items else self._left - 1
        return finished or self._left <= 0 or Progress("Runware is generating")


def _read_record(answer: Answer, task: str, request: GenerationRequest) -> Delivery | bool | None:
    """The Delivery where the record has it; True where it has nothing to say, and the task is asked after again."""
    body = as_dict(answer.json()) if answer.ok else {}
    if not ("data" in body or _errors(body)):
        return None
    for item in _items(body, "getTaskDetails", task):
        response = as_dict(item.get("response"))
        finished = _delivery(_items(response, "imageInference", task), task, request, _errors(response))
        if finished:
            return finished
    return True


def _delivery(
    items: list[dict[str, Any]], task: str, request: GenerationRequest, errors: list[Mapping[str, Any]]
) -> Delivery | None:
    """None while there is no picture and no error."""
    pictures = [item for item in items if _address(item)]
    if not pictures and errors:
        raise _failure(errors[0])
    if not pictures:
        return None
    first = pictures[0]
    seed, flag = first.get("seed"), first.get("NSFWContent")
    cost = sum(finite_number(item.get("cost")) or 0.0 for item in pictures)  # more than one picture was made, then
    return Delivery(
        pictures=(_address(first),),
        flags=(flag if isinstance(flag, bool) and request.safety_checker else None,),
        seed=seed if type(seed) is int and 0 <= seed < 2**64 else seed32(request.seed),
        cost_usd=cost or None,  # it writes 0 where it has no price to tell
        request_id=task,
    )


def _address(item: Mapping[str, Any]) -> str:
    url = item.get("imageURL")
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""


def _failure(error: Mapping[str, Any]) -> ProviderError:
    code, text = first_text(error.get("code")), first_text(error) or "no reason given"
    if _is_about_content(code, text):
        return ContentRefused(f"Runware refused the content: {text}. Change the prompt or the image.", paid=None)
    return GenerationFailed(f"Runware's task failed ({code}): {text}. It may be billed.", paid=None)


def _items(body: Mapping[str, Any], kind: str, task: str) -> list[dict[str, Any]]:
    """What an answer holds for a task, matched by its id; of one kind where it is named."""
    data = body.get("data")
    items = [as_dict(item) for item in (data if isinstance(data, list) else ())]
    return [item for item in items if item.get("taskUUID") == task and kind in ("", item.get("taskType"))]


def _errors(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """`errors`, or as older answers have it `error`, a list or one object."""
    for errors in (body.get("errors"), body.get("error")):
        if isinstance(errors, list):
            return [error for error in map(as_dict, errors) if error]
        if isinstance(errors, dict):
            return [errors]
    return []


def _errors_of(body: Mapping[str, Any], task: str) -> list[Mapping[str, Any]]:
    return [error for error in _errors(body) if error.get("taskUUID", task) == task]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


PROVIDER = Provider(
    label=SITE.label,
    key_variable="RUNWARE_API_KEY",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"Authorization": f"Bearer {key}"},
    plan=plan,
    submit=submit,
    follow=follow,
    find_lost=find_lost,
    estimate=estimate,
    parameters=PARAMETERS,
    repeatable_for=REPEATABLE_FOR,
    unlisted_modes=(IMAGE_TO_IMAGE, INPAINTING),
    picture_hosts=("im.runware.ai",),
    check=Call("POST", API, json=[{"taskType": "accountManagement", "taskUUID": "5b0e8a52-9a3e-4f0c-8f1e-0a5f6d1c7b21",
                                   "operation": "getDetails"}]),
)  # fmt: skip
