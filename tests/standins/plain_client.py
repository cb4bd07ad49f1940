"""The plainest client there can be: one request each, no retries. For tests of the stand-ins themselves."""

import base64
import io
import time

import requests
from PIL import Image

from .replicate import MODEL
from .server import Standin

GENERATE, EDIT = "/openai/v1/images/generations", "/openai/v1/images/edits"
KREA = "/fal-ai/flux/krea"
PREDICT = f"/v1/models/{MODEL}/predictions"
AUTH = {
    "fal": {"Authorization": "Key test-key-fal:0123"},
    "replicate": {"Authorization": "Bearer test-key-replicate"},
    "lumenfall": {"Authorization": "Bearer test-key-lumenfall"},
    "core_today": {"X-API-Key": "test-key-core"},
    "one_min": {"API-KEY": "test-key-1min"},
}
SUBMIT = {
    "fal": KREA,
    "replicate": PREDICT,
    "lumenfall": GENERATE,
    "core_today": "/v1/predictions",
    "one_min": "/api/features",
}
UNFINISHED = ("IN_QUEUE", "IN_PROGRESS", "starting", "processing", "pending")


def png(size: tuple[int, int] = (44, 28), colour: tuple[int, int, int] = (200, 40, 90)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def body_of(name: str, **fields) -> dict:
    """The smallest good submit of a provider, with `fields` where its parameters belong; None leaves one out."""
    given = {"prompt": "a cat", "seed": 7, **fields}
    given = {key: value for key, value in given.items() if value is not None}
    return {
        "fal": given,
        "replicate": {"input": given},
        "lumenfall": {"model": "flux.1-krea-dev", **given},
        "core_today": {"model": MODEL, "input": given},
        "one_min": {"type": "IMAGE_GENERATOR", "model": MODEL, "promptObject": given},
    }[name]


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
    if name in ("lumenfall", "one_min"):
        return reply
    path = {
        "fal": lambda: local(body["status_url"]),
        "replicate": lambda: local(body["urls"]["get"]),
        "core_today": lambda: f"/v1/predictions/{body.get('job_id') or body.get('id')}",
    }[name]()
    for _ in range(200):
        answer = call(standin, "GET", path)
        if answer.json()["status"] not in UNFINISHED:
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
    }[name]()


def pictures_of(standin: Standin, reply: requests.Response) -> list[Image.Image]:
    urls = urls_of(standin.provider.name, reply.json())
    return [Image.open(io.BytesIO(requests.get(url, timeout=10).content)) for url in urls]


def is_colour(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    """Whether the picture's middle has this colour, within what a lossy format changes."""
    seen = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    return all(abs(a - b) <= 6 for a, b in zip(seen, colour, strict=True))
