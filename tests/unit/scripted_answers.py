"""Plays an exchange against scripted answers, and what every provider answers on a good day."""

import json
from dataclasses import replace

import pytest
from flux_krea.nodes.providers.contract import (
    IMAGE_TO_IMAGE,
    Answer,
    Delivery,
    GenerationRequest,
)

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (64).to_bytes(4, "big") * 2
TEXT = GenerationRequest("a fox", seed=7)
IMAGE = replace(TEXT, mode=IMAGE_TO_IMAGE, image=PNG)


def reply(body, status=200, **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {key.replace("_", "-"): value for key, value in headers.items()}, raw)


def play(calls, script):
    """Plays a generator to its end: the calls it made, and what it returned. The last answer is repeated."""
    made = []
    try:
        call = next(calls)
        while len(made) < 2000:
            made.append(call)
            call = calls.send(script.pop(0) if len(script) > 1 else script[0])
    except StopIteration as end:
        return made, end.value
    raise AssertionError("the provider's generator does not end")


def planned(provider, request):
    """With the id that the journal would give the order."""
    return replace(provider.plan(request), order_id=TASK.replace("-", ""))


def drive(provider, request, *answers, job=None):
    """From the plan to the delivery, or from a saved job: the calls, the job where there is one, the delivery."""
    script, made = list(answers), []
    if job is None:
        made, end = play(provider.submit(planned(provider, request)), script)
        if isinstance(end, Delivery):
            return made, None, end
        job = json.loads(json.dumps(end))
    calls, delivery = play(provider.follow(job, request), script)
    return made + calls, job, delivery


def failing(kind, provider, request, *answers, job=None):
    with pytest.raises(kind) as caught:
        drive(provider, request, *answers, job=job)
    assert type(caught.value) is kind
    return caught.value


ID = "abc-123"
QUEUE = f"https://queue.fal.run/fal-ai/flux/requests/{ID}"
FAL_SUBMITTED = reply(
    {"request_id": ID, "status_url": f"{QUEUE}/status", "response_url": QUEUE, "cancel_url": f"{QUEUE}/cancel"}
)
FAL_DONE = reply({"status": "COMPLETED", "logs": None})
FAL_RESULT = {"images": [{"url": "https://v3.fal.media/a.png"}], "seed": 99, "has_nsfw_concepts": [False]}
PREDICTION = "https://api.replicate.com/v1/predictions/abc-123"
REPLICATE_CREATED = reply({"id": ID, "status": "starting", "output": None}, 201)
REPLICATE_DONE = {"status": "succeeded", "output": ["https://replicate.delivery/a.png"], "logs": "Using seed: 5\n"}
CORE_CREATED = reply({"job_id": ID, "status": "pending"})
CORE_DONE = {"status": "completed", "result": "https://replicate.delivery/a.png"}
LUMENFALL_DONE = {"id": "req_1", "data": [{"url": "https://media.lumenfall.ai/a.png"}], "metadata": {"cost": 0.03}}
ONE_MIN_RECORD = {
    "uuid": "u-1",
    "userName": "Somebody",
    "status": "SUCCESS",
    "temporaryUrl": "https://s3.us-east-1.amazonaws.com/asset.1min.ai/x.undefined?sig=1",
    "aiRecordDetail": {"resultObject": ["development/images/x.undefined"]},
}
ONE_MIN_DONE = {"aiRecord": ONE_MIN_RECORD}
TASK = "00000000-0000-4000-8000-000000000001"  # what drive() gives as the order's id
RUNWARE_TAKEN = reply({"data": [{"taskType": "imageInference", "taskUUID": TASK}]})
RUNWARE_ITEM = {"taskType": "imageInference", "taskUUID": TASK, "status": "success", "seed": 7, "cost": 0.0098,
                "imageURL": "https://im.runware.ai/a.png", "NSFWContent": False}  # fmt: skip
WAVESPEED_PRICE = reply({"code": 200, "data": {"price": 0.025, "discounted_price": 0.025}})
WAVESPEED_CREATED = reply({"code": 200, "data": {"id": ID, "status": "created"}})
WAVESPEED_DONE = {
    "id": ID,
    "status": "completed",
    "outputs": ["https://cdn.wavespeed.ai/a.png"],
    "has_nsfw_contents": [False],
}
WAVESPEED_BILL = reply({"code": 200, "data": {"items": [{"price": 0.024, "prediction": {"uuid": ID}}]}})
GOOD = {
    "fal": (FAL_SUBMITTED, FAL_DONE, reply(FAL_RESULT)),
    "replicate": (REPLICATE_CREATED, reply(REPLICATE_DONE)),
    "core_today": (CORE_CREATED, reply(CORE_DONE)),
    "lumenfall": (reply(LUMENFALL_DONE),),
    "one_min": (reply(ONE_MIN_DONE),),
    "runware": (RUNWARE_TAKEN, reply({"data": [RUNWARE_ITEM]})),
    "wavespeed": (WAVESPEED_PRICE, WAVESPEED_CREATED, reply({"data": WAVESPEED_DONE}), WAVESPEED_BILL),
}
PICTURE = {
    "fal": "https://v3.fal.media/a.png",
    "replicate": "https://replicate.delivery/a.png",
    "core_today": "https://replicate.delivery/a.png",
    "lumenfall": "https://media.lumenfall.ai/a.png",
    "one_min": ONE_MIN_RECORD["temporaryUrl"],
    "runware": "https://im.runware.ai/a.png",
    "wavespeed": "https://cdn.wavespeed.ai/a.png",
}
