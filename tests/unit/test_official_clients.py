"""The providers' own clients judge the stand-ins: what they cannot read, the stand-in has wrong.

One exchange of each is recorded in official/, which test_wire.py compares with our own client's.
`FLUX_KREA_WRITE_DOCS=1` records anew.
"""

import asyncio
import io
import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import fal_client
import httpx
import httpx2
import openai
import pytest
import replicate
import requests
import runware
import wavespeed
import wire
from replicate.exceptions import ReplicateError
from runware.types import ILora, ISafety
from standins import Standin
from standins.plain_client import data_uri, png
from standins.replicate import MODEL
from standins.runware_socket import RunwareSocket

PNG = png((64, 32))
MASK = png((64, 32), (255, 255, 255))
PROMPT = "a red fox in the snow"
SAMPLING = {"num_inference_steps": 12, "seed": 41, "num_images": 1, "output_format": "png", "acceleration": "none",
            "enable_safety_checker": True}  # fmt: skip
SIZE = {"image_size": {"width": 512, "height": 512}}
LORA = {"path": "owner/style", "scale": 0.8}


@pytest.fixture(scope="module")
def running():
    standins = {name: Standin(name) for name in ("fal", "replicate", "lumenfall", "runware", "wavespeed")}
    yield standins
    for standin in standins.values():
        standin.close()


@pytest.fixture(autouse=True)
def fresh(running):
    for standin in running.values():
        standin.reset()


@pytest.fixture
def led_to(monkeypatch):
    """Leads everything that the official clients send, whatever the host, to one stand-in."""

    def lead(standin):
        port = urlsplit(standin.base_url).port
        for library in (httpx, httpx2):
            monkeypatch.setattr(library.HTTPTransport, "handle_request", _turned(library, port))
        send = requests.adapters.HTTPAdapter.send

        def turned(adapter, request, **options):
            parts = urlsplit(request.url)
            if parts.hostname != "127.0.0.1":
                request.headers["X-Forwarded-Host"] = parts.hostname
                request.url = urlunsplit(parts._replace(scheme="http", netloc=f"127.0.0.1:{port}"))
            return send(adapter, request, **options)

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", turned)
        return standin

    return lead


def _turned(library, port):
    handle = library.HTTPTransport.handle_request

    def turned(transport, request):
        if request.url.host != "127.0.0.1":
            request.headers["X-Forwarded-Host"] = request.url.host
            request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
        return handle(transport, request)

    return turned


# Each a run of the official client: what it got, for the judgement.


def fal(app, **arguments):
    def run(standin):
        heard = []
        client = fal_client.SyncClient(key=standin.key)
        body = client.subscribe(app, arguments, with_logs=True, on_queue_update=heard.append)
        assert any(isinstance(update, fal_client.Completed) for update in heard)
        assert body["seed"] == 41 and len(body["images"]) == 1 and body["has_nsfw_concepts"] == [False]

    return run


def replicate_text(standin):
    client = replicate.Client(api_token=standin.key)
    given = {"prompt": PROMPT, "aspect_ratio": "1:1", "megapixels": "0.25", "num_inference_steps": 12, "guidance": 4.0,
             "seed": 41, "num_outputs": 1, "output_format": "png", "output_quality": 90, "go_fast": False,
             "disable_safety_checker": False}  # fmt: skip
    prediction = client.models.predictions.create(MODEL, input=given)
    prediction.wait()
    assert prediction.status == "succeeded" and len(prediction.output) == 1


def replicate_image(standin):
    client = replicate.Client(api_token=standin.key)
    file = io.BytesIO(PNG)
    file.name = "image.png"
    given = {"prompt": PROMPT, "image": file, "prompt_strength": 0.8, "num_inference_steps": 12, "guidance": 4.0,
             "seed": 41, "num_outputs": 1, "output_format": "png", "output_quality": 90, "go_fast": False,
             "disable_safety_checker": False}  # fmt: skip
    prediction = client.models.predictions.create(MODEL, input=given)
    prediction.wait()
    assert prediction.status == "succeeded"


def openai_client(standin, key=None):
    base = "https://api.lumenfall.ai/openai/v1"
    return openai.OpenAI(api_key=key or standin.key, base_url=base, max_retries=0)


OPENAI = {"num_inference_steps": 12, "cfg_scale": 4.0, "seed": 41}


def openai_text(standin):
    answer = openai_client(standin).images.generate(
        model="flux.1-krea-dev", prompt=PROMPT, size="512x512", n=1, output_format="png", extra_body=OPENAI
    )
    assert answer.data[0].url.startswith("http") and answer.output_format == "png"


def openai_image(standin):
    answer = openai_client(standin).images.edit(
        model="flux.1-krea-dev",
        prompt=PROMPT,
        image=("image.png", PNG, "image/png"),
        n=1,
        output_format="png",
        extra_body={**OPENAI, "strength": 0.8},
    )
    assert answer.data[0].url.startswith("http")


def wavespeed_run(**fields):
    def run(standin):
        client = wavespeed.Client(api_key=standin.key)
        if "image" in fields:
            file = io.BytesIO(PNG)
            file.name = "image.png"
            fields["image"] = client.upload(file)
        given = {"prompt": PROMPT, "seed": 41, "guidance_scale": 4.0, "output_format": "png", **fields}
        answer = client.run("wavespeed-ai/flux-krea-dev-lora", given, poll_interval=0.02)
        assert len(answer["outputs"]) == 1

    return run


def runware_run(**fields):
    def run(standin):
        task = {"model": "runware:107@1", "positivePrompt": PROMPT, "width": 512, "height": 512, "steps": 12,
                "CFGScale": 4.0, "seed": 41, "outputFormat": "PNG", "includeCost": True,
                "safety": ISafety(checkContent=True), **fields}  # fmt: skip

        async def talk(client):
            answer = await client.imageInference(runware.IImageInference(deliveryMethod="async", **task))
            await asyncio.sleep(0.2)  # it hears no "processing": a poll that finds none waits half a minute for more
            return await client.getResponse(answer.taskUUID)

        (image,) = over_the_socket(standin, talk)
        assert (image.seed, image.NSFWContent, image.imageURL[:4]) == (41, False, "http") and image.cost > 0

    return run


def over_the_socket(standin, talk, key=None):
    async def session(url):
        client = runware.Runware(api_key=key or standin.key, url=url, max_retries=1)
        await client.connect()
        try:
            return await talk(client)
        finally:
            await client.disconnect()

    with (
        RunwareSocket(standin) as door,
        ThreadPoolExecutor(1) as thread,
    ):  # browser tests leave a loop running in this one
        return thread.submit(asyncio.run, asyncio.wait_for(session(door.url), 30)).result()


CASES = {
    "fal_text": ("fal", fal("fal-ai/flux/krea", prompt=PROMPT, guidance_scale=4.0, **SIZE, **SAMPLING)),
    "fal_image": (
        "fal",
        fal(
            "fal-ai/flux/krea/image-to-image",
            prompt=PROMPT,
            image_url=data_uri(PNG),
            strength=0.8,
            guidance_scale=4.0,
            **SAMPLING,
        ),
    ),
    "fal_redux": (
        "fal",
        fal("fal-ai/flux/krea/redux", image_url=data_uri(PNG), guidance_scale=4.0, **SIZE, **SAMPLING),
    ),
    "fal_lora_text": (
        "fal",
        fal("fal-ai/flux-krea-lora", prompt=PROMPT, loras=[LORA], guidance_scale=4.0, **SIZE, **SAMPLING),
    ),
    "fal_lora_image": (
        "fal",
        fal(
            "fal-ai/flux-krea-lora/image-to-image",
            prompt=PROMPT,
            image_url=data_uri(PNG),
            strength=0.8,
            loras=[LORA],
            guidance_scale=4.0,
            **SAMPLING,
        ),
    ),
    "fal_lora_inpainting": (
        "fal",
        fal(
            "fal-ai/flux-krea-lora/inpainting",
            prompt=PROMPT,
            image_url=data_uri(PNG),
            mask_url=data_uri(MASK),
            strength=0.8,
            loras=[],
            guidance_scale=4.0,
            **SAMPLING,
        ),
    ),
    "replicate_text": ("replicate", replicate_text),
    "replicate_image": ("replicate", replicate_image),
    "lumenfall_text": ("lumenfall", openai_text),
    "lumenfall_image": ("lumenfall", openai_image),
    "wavespeed_text": ("wavespeed", wavespeed_run(size="512*512", loras=[LORA])),
    "wavespeed_image": ("wavespeed", wavespeed_run(size="512*256", image=True, strength=0.8)),
    "runware_text": ("runware", runware_run()),
    "runware_lora": ("runware", runware_run(lora=[ILora("civitai:1@2", 0.8)])),
    "runware_image": ("runware", runware_run(inputs={"seedImage": data_uri(PNG)}, strength=0.8, width=256, height=128)),
}


@pytest.mark.parametrize("case", CASES)
def test_an_official_client_gets_its_picture_and_its_recording_is_fresh(running, led_to, case):
    name, run = CASES[case]
    standin = led_to(running[name])
    with standin.recording() as seen:
        run(standin)
    state = standin.state()
    assert (state["accepted"], state["billed"]) == (1, 1)
    lines = wire.exchange(seen, standin.key)
    if os.environ.get("FLUX_KREA_WRITE_DOCS"):
        wire.record(case, lines)
    assert lines == wire.recorded(case)


# What else they read


def test_fals_client_uploads_cancels_and_understands_a_refusal(running, led_to):
    standin = led_to(running["fal"])
    client = fal_client.SyncClient(key=standin.key)
    assert client.upload(PNG, "image/png", "x.png") in standin.provider.uploads
    standin.set(job_seconds=60)
    handle = client.submit("fal-ai/flux-krea-lora", {"prompt": PROMPT})
    assert isinstance(handle.status(with_logs=True), fal_client.InProgress)
    handle.cancel()
    assert standin.state()["cancels"][0]["effective"]
    for key, arguments, status in (
        ("wrong:key", {"prompt": "x"}, 401),
        (standin.key, {"prompt": "x", "seed": "x"}, 422),
    ):
        with pytest.raises(fal_client.FalClientHTTPError) as refused:
            fal_client.SyncClient(key=key).submit("fal-ai/flux-krea-lora", arguments)
        assert refused.value.status_code == status


def test_replicates_client_uploads_lists_cancels_and_understands_a_refusal(running, led_to):
    standin = led_to(running["replicate"])
    client = replicate.Client(api_token=standin.key)
    file = client.files.create(io.BytesIO(PNG), filename="x.png", metadata={"for": "a test"})
    assert (file.name, file.content_type, file.size) == ("x.png", "image/png", len(PNG))
    assert client.files.get(file.id).checksums == file.checksums and file.metadata == {"for": "a test"}
    assert [each.id for each in client.files.list()] == [file.id] and client.files.delete(file.id)
    standin.set(job_seconds=60)
    prediction = client.models.predictions.create(MODEL, input={"prompt": PROMPT})
    assert [each.id for each in client.predictions.list()] == [prediction.id]
    prediction.cancel()
    prediction.reload()
    assert prediction.status == "canceled"
    for key, given, status in (("wrong", {"prompt": "x"}, 401), (standin.key, {"prompt": "x", "seed": "x"}, 422)):
        with pytest.raises(ReplicateError) as refused:
            replicate.Client(api_token=key).models.predictions.create(MODEL, input=given)
        assert refused.value.status == status


def test_replicates_run_returns_files(running, led_to):
    standin = led_to(running["replicate"])
    standin.set(picture_base="https://replicate.delivery")
    client = replicate.Client(api_token=standin.key)
    output = client.run(MODEL, input={"prompt": PROMPT, "output_format": "png"})
    assert output[0].url.startswith("http") and output[0].read()[1:4] == b"PNG"


def test_openais_client_understands_lumenfalls_refusals(running, led_to):
    standin = led_to(running["lumenfall"])
    asked = {"model": "flux.1-krea-dev", "prompt": "x"}
    with pytest.raises(openai.AuthenticationError):
        openai_client(standin, "wrong").images.generate(**asked)
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(standin).images.generate(**{**asked, "prompt": "NSFW"})
    assert refused.value.code == "CONTENT_POLICY_VIOLATION"
    answer = openai_client(standin).images.generate(**asked, response_format="b64_json")
    assert answer.data[0].b64_json and answer.created > 0


def test_wavespeeds_client_understands_failures_and_the_synchronous_mode(running, led_to):
    standin = led_to(running["wavespeed"])
    client, model = wavespeed.Client(api_key=standin.key), "wavespeed-ai/flux-krea-dev-lora"
    assert client.run(model, {"prompt": PROMPT}, enable_sync_mode=True)["outputs"]
    standin.fault("job", "failed", message="out of paint")
    failed = client.run_no_throw(model, {"prompt": PROMPT}, poll_interval=0.02)
    assert failed["status"] == "failed" and "out of paint" in failed["error"]
    assert failed["task_id"] == standin.state()["jobs"][-1]["id"]
    standin.set(job_seconds=60, longest_wait=0.02)
    late = client.run_no_throw(model, {"prompt": PROMPT}, enable_sync_mode=True)
    assert (late["status"], late["task_id"]) == ("processing", standin.state()["jobs"][-1]["id"])
    with pytest.raises(RuntimeError, match="401"):
        wavespeed.Client(api_key="wrong").run(model, {"prompt": PROMPT})
    with pytest.raises(RuntimeError, match="400.*size"):
        client.run(model, {"prompt": PROMPT, "size": "512x512"})


def test_runwares_client_waits_uploads_looks_back_and_understands_refusals(running, led_to):
    standin = led_to(running["runware"])
    task = {"model": "runware:107@1", "positivePrompt": PROMPT, "width": 512, "height": 512}

    async def talk(client):
        images = await client.imageInference(runware.IImageInference(numberResults=2, **task))
        details = await client.getTaskDetails(images[0].taskUUID)
        again = runware.IImageInference(taskUUID=images[0].taskUUID, **task)
        with pytest.raises(runware.utils.RunwareAPIError) as refused:
            again_answer = await client.imageInference(again)
            assert again_answer is None
        media = await client.uploadMedia(data_uri(PNG))
        return images, details, refused.value, media

    images, details, refused, media = over_the_socket(standin, talk)
    assert len({image.imageUUID for image in images}) == 2
    assert [each.imageURL for each in details.response] == [image.imageURL for image in images]
    assert refused.code == "conflictTaskUUID" and standin.state()["accepted"] == 1
    assert media.mediaUUID in standin.provider.uploads


def test_runwares_client_hears_that_its_key_is_wrong(running, led_to):
    standin = led_to(running["runware"])

    async def talk(client):
        return client._invalidAPIkey

    assert "Invalid API key" in over_the_socket(standin, talk, key="wrong")
