"""The plainest client there can be: one request each, no retries. For tests of the stand-ins themselves."""

import base64
import io
import time
import uuid

import requests
from PIL import Image

from . import runware, wavespeed
from .replicate import MODEL
from .server import Standin

GENERATE, EDIT = "/openai/v1/images/generations", "/openai/v1/images/edits"
KREA = "/fal-ai/flux/krea"
KREA_LORA = "/fal-ai/flux-krea-lora"
PREDICT = f"/v1/models/{MODEL}/predictions"
AUTH = {
    "fal": {"Authorization": "Key test-key-fal:0123"},
    "replicate": {"Authorization": "Bearer test-key-replicate"},
    "lumenfall": {"Authorization": "Bearer test-key-lumenfall"},
    "core_today": {"X-API-Key": "test-key-core"},
    "one_min": {"API-KEY": "test-key-1min"},
    "runware": {"Authorization": "Bearer test-key-runware"},
    "wavespeed": {"Authorization": "Bearer test-key-wavespeed"},
}
SUBMIT = {
    "fal": KREA,
    "replicate": PREDICT,
    "lumenfall": GENERATE,
    "core_today": "/v1/predictions",
    "one_min": "/api/features",
    "runware": "/v1",
    "wavespeed": f"/api/v3/{wavespeed.MODEL}",
}
UNFINISHED = ("IN_QUEUE", "IN_PROGRESS", "starting", "processing", "pending", "created")


def png(size: tuple[int, int] = (44, 28), colour: tuple[int, int, int] = (200, 40, 90)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def body_of(name: str, **fields) -> dict | list:
    """The smallest good submit of a provider, with `fields` where its parameters belong; None leaves one out."""
    if name == "runware":
        return [task(**fields)]
    given = {"prompt": "a cat", "seed": 7, **fields}
    given = {key: value for key, value in given.items() if value is not None}
    return {
        "fal": given,
        "replicate": {"input": given},
        "lumenfall": {"model": "flux.1-krea-dev", **given},
        "core_today": {"model": MODEL, "input": given},
        "one_min": {"type": "IMAGE_GENERATOR", "model": MODEL, "promptObject": given},
        "wavespeed": given,
    }[name]


def task(kind: str = "imageInference", **fields) -> dict:
    """One task for Runware; `prompt` becomes its own word for it."""
    given = {"taskType": kind, "taskUUID": str(uuid.uuid4())}
    if kind == "imageInference":
        given |= {"model": runware.MODEL, "positivePrompt": "a cat", "width": 512, "height": 512, "seed": 7}
    if "prompt" in fields:
        fields["positivePrompt"] = fields.pop("prompt")
    return {name: value for name, value in {**given, **fields}.items() if value is not None}


def call(standin: Standin, method: str, path: str, **options) -> requests.Response:
    headers = {**AUTH[standin.provider.name], **options.pop("headers", {})}
    return requests.request(
        method, standin.base_url + path, headers=headers, timeout=10, allow_redirects=False, **options
    )


def submit(standin: Standin, **fields) -> requests.Response:
    name = standin.provider.name
    return call(standin, "POST", SUBMIT[name], json=body_of(name, **fields))


def local(url: str) -> str:
    """The path and query of an official address."""
    return "/" + url.split("/", 3)[3]


def finished(standin: Standin, reply: requests.Response) -> requests.Response:
    """Polls a submit's answer to the end and returns the final answer."""
    name, body = standin.provider.name, reply.json()
    if name in ("lumenfall", "one_min", "runware"):
        return reply
    path = {
        "fal": lambda: local(body["status_url"]),
        "replicate": lambda: local(body["urls"]["get"]),
        "core_today": lambda: f"/v1/predictions/{body.get('job_id') or body.get('id')}",
        "wavespeed": lambda: local(body["data"]["urls"]["get"]),
    }[name]()
    for _ in range(200):
        answer = call(standin, "GET", path)
        state = answer.json()["data"] if name == "wavespeed" else answer.json()
        if state["status"] not in UNFINISHED:
            return call(standin, "GET", local(body["response_url"])) if name == "fal" else answer
        time.sleep(0.02)
    raise AssertionError("the job never ended")


def urls_of(name: str, body: dict) -> list[str]:
    return {
        "fal": lambda: [image["url"] for image in body["images"]],
        "replicate": lambda: body["output"],
        "lumenfall": lambda: [datum["url"] for datum in body["data"]],
        "core_today": lambda: body["result"],
        "one_min": lambda: [body["aiRecord"]["temporaryUrl"]],
        "runware": lambda: [item["imageURL"] for item in body["data"]],
        "wavespeed": lambda: body["data"]["outputs"],
    }[name]()


def pictures_of(standin: Standin, reply: requests.Response) -> list[Image.Image]:
    urls = urls_of(standin.provider.name, reply.json())
    return [Image.open(io.BytesIO(requests.get(url, timeout=10).content)) for url in urls]


def is_colour(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    """Whether the picture's middle has this colour, within what a lossy format changes."""
    seen = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    return all(abs(a - b) <= 6 for a, b in zip(seen, colour, strict=True))
