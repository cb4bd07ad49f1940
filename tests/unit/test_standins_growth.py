"""What fal's app for LoRAs and masks, Runware and WaveSpeed do: their pictures, their life, their bill."""

import base64
import io
import time

import pytest
import requests
from PIL import Image
from standins import Standin, expected_pixel
from standins.plain_client import (
    KREA,
    KREA_LORA,
    SUBMIT,
    body_of,
    call,
    data_uri,
    finished,
    is_colour,
    local,
    pictures_of,
    png,
    submit,
    task,
)

RED = (200, 40, 90)
PICTURE = data_uri(png((64, 32), RED))
LORA = {"path": "owner/style", "scale": 0.8}


def mask(size=(64, 32)) -> bytes:
    """The left half white, which is repainted."""
    picture, out = Image.new("L", size, 0), io.BytesIO()
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    picture.save(out, "PNG")
    return out.getvalue()


MASK = data_uri(mask())


def pixels(picture, *places):
    return [picture.convert("RGB").getpixel(place) for place in places]


def is_repainted(picture, seed=7):
    """Left of the middle the new colour, right of it the input's."""
    left, right = pixels(picture, (picture.width // 8, 8), (picture.width * 7 // 8, 8))
    return is_colour(Image.new("RGB", (1, 1), left), expected_pixel("a cat", seed)) and all(
        abs(a - b) <= 6 for a, b in zip(right, RED, strict=True)
    )


# fal's flux-krea-lora


@pytest.fixture(scope="module")
def running_fal():
    with Standin("fal") as standin:
        yield standin


@pytest.fixture
def fal(running_fal):
    running_fal.reset()
    return running_fal


def lora(standin, mode="", **fields):
    return call(standin, "POST", KREA_LORA + mode, json=body_of("fal", **fields))


@pytest.mark.parametrize(
    ("mode", "fields", "size"),
    [
        ("", {"loras": [LORA]}, (1024, 768)),
        ("", {"image_size": {"width": 200, "height": 120}}, (200, 120)),
        ("/image-to-image", {"image_url": PICTURE}, (64, 32)),
        ("/image-to-image", {"image_url": PICTURE, "image_size": "square"}, (512, 512)),
        ("/inpainting", {"image_url": PICTURE, "mask_url": MASK}, (64, 32)),
        ("/inpainting", {"image_url": PICTURE, "mask_url": MASK, "image_size": "square"}, (512, 512)),
    ],
)
def test_flux_krea_lora_delivers_in_the_size_that_was_asked_or_the_inputs(fal, mode, fields, size):
    result = finished(fal, lora(fal, mode, output_format="png", **fields))
    (picture,) = pictures_of(fal, result)
    assert picture.size == size and result.json()["seed"] == 7
    assert (result.json()["images"][0]["width"], result.json()["images"][0]["height"]) == size
    if "mask_url" in fields:
        assert is_repainted(picture)
    else:
        assert is_colour(picture, expected_pixel("a cat", 7))


def test_flux_krea_lora_keeps_its_jobs_under_its_own_address(fal):
    job, plain = lora(fal).json(), submit(fal).json()
    assert local(job["status_url"]) == f"{KREA_LORA}/requests/{job['request_id']}/status"
    for app, request_id in (("/fal-ai/flux", job["request_id"]), (KREA_LORA, plain["request_id"])):
        assert call(fal, "GET", f"{app}/requests/{request_id}/status").status_code == 404
        assert call(fal, "PUT", f"{app}/requests/{request_id}/cancel").status_code == 404
    assert call(fal, "GET", f"{KREA_LORA}/image-to-image/requests/{job['request_id']}").status_code == 404


def test_what_a_client_forgot_to_send_is_filled_in_and_seen(fal):
    submit(fal)
    call(fal, "POST", KREA + "/image-to-image", json=body_of("fal", image_url=PICTURE))
    lora(fal)
    lora(fal, "/inpainting", image_url=PICTURE, mask_url=MASK)
    names = ("num_inference_steps", "guidance_scale", "strength", "acceleration")
    seen = [tuple(job["filled"].get(name) for name in names) for job in fal.state()["jobs"]]
    assert seen == [
        (28, 4.5, None, "none"),
        (40, 4.5, 0.95, "none"),
        (28, 3.5, None, "none"),
        (28, 3.5, 0.85, "none"),
    ]


@pytest.mark.parametrize(("whole", "units", "usd"), [(True, "4", 0.14), (False, "2.83203", 0.099121)])
def test_flux_krea_lora_bills_a_megapixel_at_its_own_price(fal, whole, units, usd):
    fal.set(whole_megapixels=whole)
    result = finished(fal, lora(fal, num_images=2, image_size={"width": 1450, "height": 1024}))
    assert result.headers["x-fal-billable-units"] == units and fal.state()["usd"] == usd
    prices = call(fal, "GET", "/v1/models/pricing?endpoint_id=fal-ai/flux-krea-lora/inpainting,fal-ai/flux/krea").json()
    assert [row["unit_price"] for row in prices["prices"]] == [0.035, 0.025]
    assert call(fal, "GET", "/v1/models/pricing?endpoint_id=fal-ai/other").status_code == 404


@pytest.mark.parametrize("path", ["owner/gone", "/home/me/style.safetensors", "http://x.test/style.safetensors"])
def test_a_lora_that_cannot_be_fetched_ends_the_job_with_a_422(fal, path):
    fal.set(dead_loras=["owner/gone"])
    result = finished(fal, lora(fal, loras=[LORA, {"path": path}]))
    assert result.status_code == 422 and result.json()["detail"][0]["loc"] == ["body", "loras"]
    assert path in result.json()["detail"][0]["msg"] and fal.state()["accepted"] == 1


def test_only_an_authorised_account_switches_this_checker_off(fal):
    for authorised, flags in ((False, [True]), (True, [False])):
        fal.set(safety_authorised=authorised)
        result = finished(fal, lora(fal, prompt="NSFW", enable_safety_checker=False))
        assert result.json()["has_nsfw_concepts"] == flags
        assert (max(pixels(pictures_of(fal, result)[0], (9, 9))[0]) == 0) == flags[0]


def test_a_mask_of_another_size_is_refused_or_resized(fal):
    fields = {"image_url": PICTURE, "mask_url": data_uri(mask((32, 16))), "output_format": "png"}
    assert lora(fal, "/inpainting", **fields).status_code == 422 and fal.state()["accepted"] == 0
    fal.set(mask_of_another_size="resized")
    assert is_repainted(pictures_of(fal, finished(fal, lora(fal, "/inpainting", **fields)))[0])


def test_too_many_at_once_are_a_429_that_names_its_kind(fal):
    fal.set(concurrency=1, job_seconds=60)
    assert lora(fal).status_code == 200
    reply = lora(fal)
    assert (reply.status_code, reply.json()["error_type"]) == (429, "concurrent_requests_limit")
    assert reply.headers["X-Fal-needs-retry"] == "1" and fal.state()["accepted"] == 1


def test_the_request_list_tells_two_equal_requests_from_none_and_may_be_late(fal):
    fal.set(lists_after=0.3)
    for _ in range(2):
        finished(fal, lora(fal, "/inpainting", image_url=PICTURE, mask_url=MASK))
    path = "/v1/models/requests/by-endpoint?endpoint_id=fal-ai/flux-krea-lora/inpainting&expand=payloads"
    assert call(fal, "GET", path).json()["items"] == []
    time.sleep(0.35)
    items = call(fal, "GET", path).json()["items"]
    assert len(items) == 2 and items[0]["json_input"] == items[1]["json_input"]
    assert items[0]["json_input"]["mask_url"] == MASK
    other = "/v1/models/requests/by-endpoint?endpoint_id=fal-ai/flux-krea-lora"
    assert call(fal, "GET", other).json()["items"] == []


def test_a_picture_as_a_data_uri_stays_out_of_the_list(fal):
    result = finished(fal, lora(fal, sync_mode=True))
    assert result.json()["images"][0]["url"].startswith("data:image/jpeg;base64,")
    path = "/v1/models/requests/by-endpoint?endpoint_id=fal-ai/flux-krea-lora&expand=payloads"
    assert "json_output" not in call(fal, "GET", path).json()["items"][0]


# Runware


@pytest.fixture(scope="module")
def running_runware():
    with Standin("runware") as standin:
        yield standin


@pytest.fixture
def runware(running_runware):
    running_runware.reset()
    return running_runware


def tasks(standin, *given, **options):
    return call(standin, "POST", "/v1", json=list(given), **options)


def asked_for(standin, name, kind="getResponse"):
    return tasks(standin, task(kind, taskUUID=name)).json()


def test_runware_answers_with_pictures_that_carry_the_callers_id(runware):
    paid = task(numberResults=3, outputFormat="PNG", includeCost=True, steps=28, width=1024, height=1024)
    reply = tasks(runware, paid)
    items = reply.json()["data"]
    assert set(items[0]) == {"taskType", "taskUUID", "imageUUID", "imageURL", "seed", "cost"}
    assert {item["taskUUID"] for item in items} == {paid["taskUUID"]} and len({i["imageUUID"] for i in items}) == 3
    assert ([item["seed"] for item in items], [item["cost"] for item in items]) == ([7, 8, 9], [0.0098] * 3)
    assert [is_colour(p, expected_pixel("a cat", 7, i)) for i, p in enumerate(pictures_of(runware, reply))] == [
        True
    ] * 3
    assert runware.state()["usd"] == 0.0294 and "errors" not in reply.json()


@pytest.mark.parametrize(("form", "field"), [("base64Data", "imageBase64Data"), ("dataURI", "imageDataURI")])
def test_runware_puts_a_picture_into_the_answer(runware, form, field):
    text = tasks(runware, task(outputType=form, outputFormat="WEBP")).json()["data"][0][field]
    assert Image.open(io.BytesIO(base64.b64decode(text.split(",")[-1]))).format == "WEBP"


def test_the_same_id_again_is_refused_and_costs_nothing(runware):
    paid = task()
    assert tasks(runware, paid).ok
    again = tasks(runware, paid)
    assert (again.status_code, again.json()["errors"][0]["code"]) == (400, "conflictTaskUUID")
    assert again.json()["errors"][0]["taskUUID"] == paid["taskUUID"]
    assert runware.state()["accepted"] == 1
    runware.set(uuid_memory=0.0)
    assert tasks(runware, paid).ok and runware.state()["accepted"] == 2


@pytest.mark.parametrize(("taken", "status"), [(False, 200), (True, 400)])
def test_a_refused_task_gives_its_id_back_or_not(runware, taken, status):
    runware.set(refused_uuid_is_taken=taken)
    paid = task()
    assert tasks(runware, {**paid, "steps": 500}).json()["errors"][0]["parameter"] == "steps"
    assert tasks(runware, paid).status_code == status


def test_async_says_yes_then_processing_then_one_picture_after_the_other(runware):
    runware.set(job_seconds=0.6)
    paid = task(numberResults=2, deliveryMethod="async")
    assert tasks(runware, paid).json() == {"data": [{"taskType": "imageInference", "taskUUID": paid["taskUUID"]}]}
    seen = []
    deadline = time.time() + 5
    while time.time() < deadline and seen[-1:] != [("success", "success")]:
        seen.append(tuple(item["status"] for item in asked_for(runware, paid["taskUUID"])["data"]))
        time.sleep(0.05)
    assert list(dict.fromkeys(seen)) == [("processing",) * 2, ("success", "processing"), ("success",) * 2]
    assert asked_for(runware, task()["taskUUID"]) == {"data": []}
    assert runware.state()["jobs"][0]["polls"] >= len(seen)


def test_a_running_task_can_look_like_an_unknown_one(runware):
    runware.set(job_seconds=60, silent_while_running=True)
    paid = task(deliveryMethod="async")
    tasks(runware, paid)
    assert asked_for(runware, paid["taskUUID"]) == {"data": []}


def test_a_task_whose_answer_was_lost_is_found_by_its_id(runware):
    runware.set(job_seconds=0.3)
    paid = task()
    with pytest.raises(requests.Timeout):
        requests.post(
            runware.base_url + "/v1", json=[paid], headers={"Authorization": f"Bearer {runware.key}"}, timeout=0.1
        )
    time.sleep(0.4)
    (found,) = asked_for(runware, paid["taskUUID"], "getTaskDetails")["data"]
    assert found["request"] == [paid] and found["response"]["data"][0]["imageURL"].startswith("http")
    assert runware.state()["billed"] == 1
    runware.set(record_lifetime=0.0)
    assert asked_for(runware, paid["taskUUID"], "getTaskDetails") == {"data": []}


def test_tasks_in_one_array_succeed_and_fail_each_for_itself(runware):
    good, bad = task(), task(steps=0)
    reply = tasks(runware, bad, good)
    assert reply.status_code == 200
    assert [item["taskUUID"] for item in reply.json()["data"]] == [good["taskUUID"]]
    assert [error["taskUUID"] for error in reply.json()["errors"]] == [bad["taskUUID"]]
    runware.fault("job", "failed", index=1)
    part = tasks(runware, task(numberResults=3)).json()
    assert [item["seed"] for item in part["data"]] == [7, 9] and part["errors"][0]["code"] == "providerError"
    runware.set(reversed_results=True)
    assert [item["seed"] for item in tasks(runware, task(numberResults=3)).json()["data"]] == [9, 8, 7]


def test_runware_flags_only_when_asked_and_delivers_all_the_same(runware):
    for checked, flag in ((True, True), (False, None)):
        reply = tasks(runware, task(prompt="NSFW", safety={"checkContent": checked}))
        assert reply.json()["data"][0].get("NSFWContent") is flag
        assert is_colour(pictures_of(runware, reply)[0], expected_pixel("NSFW", 7))


@pytest.mark.parametrize(
    ("place", "asked", "ok"),
    [
        ("both", "inputs", True),
        ("both", "top", True),
        ("inputs", "top", False),
        ("top", "inputs", False),
        ("none", "inputs", False),
    ],
)
def test_input_pictures_stand_where_the_setting_says(runware, place, asked, ok):
    runware.set(image_fields=place, size_multiple=16)
    given = {"seedImage": PICTURE, "maskImage": MASK}
    fields = {"inputs": given} if asked == "inputs" else given
    reply = tasks(runware, task(width=256, height=128, outputFormat="PNG", strength=0.8, **fields))
    assert reply.ok == ok
    if ok:
        assert is_repainted(pictures_of(runware, reply)[0])
    else:
        assert "unsupported" in reply.json()["errors"][0]["code"]


def test_the_multiple_of_a_size_is_16_or_64(runware):
    error = tasks(runware, task(width=528)).json()["errors"][0]
    assert (error["parameter"], error["multiplier"]) == ("width", 64)
    runware.set(size_multiple=16)
    assert tasks(runware, task(width=528)).ok


@pytest.mark.parametrize(("shape", "key"), [("errors", "errors"), ("error", "error"), ("flat", "error")])
@pytest.mark.parametrize("status", [401, 402, 403, 429, 500, 503, 504])
def test_runwares_errors_come_in_three_shapes(runware, shape, key, status):
    runware.set(error_shape=shape)
    runware.fault("submit", "status", status=status)
    reply = tasks(runware, task())
    first = reply.json()[key] if shape == "flat" else reply.json()[key][0]
    assert reply.status_code == status and first["code"] and first["message"]


@pytest.mark.parametrize(("honoured", "jobs"), [(True, 0), (False, 1)])
def test_a_dry_run_may_be_ignored_and_billed(runware, honoured, jobs):
    runware.set(honours_dry_run=honoured)
    reply = tasks(runware, task(steps=28), headers={"X-Runware-Dry-Run": "1"})
    assert ("cost" in reply.json()["data"][0]) == honoured and runware.state()["accepted"] == jobs


def test_the_key_may_stand_in_the_first_task_instead_of_the_header(runware):
    login = {"taskType": "authentication", "apiKey": runware.key}
    for key, status in ((runware.key, 200), ("wrong", 401)):
        body = [{**login, "apiKey": key}, {"taskType": "ping", "ping": True}]
        assert requests.post(runware.base_url + "/v1", json=body, timeout=10).status_code == status


@pytest.mark.parametrize(("form", "balance"), [("number", 10.0), ("object", {"amount": 10.0, "currency": "USD"})])
def test_the_balance_is_a_number_or_an_object_and_not_for_every_key(runware, form, balance):
    runware.set(balance_form=form)
    asked = task("accountManagement", operation="getDetails")
    assert tasks(runware, asked).json()["data"][0]["balance"] == balance
    runware.set(account_open=False)
    assert tasks(runware, asked).status_code == 403
    runware.set(balance=0)
    assert tasks(runware, task()).status_code == 402


def test_an_upload_becomes_an_id_that_a_task_takes(runware):
    uploaded = tasks(runware, task("mediaStorage", operation="upload", media=base64.b64encode(png((64, 32))).decode()))
    name = uploaded.json()["data"][0]["mediaUUID"]
    assert tasks(runware, task(inputs={"seedImage": name}, strength=0.5)).ok
    assert runware.state()["jobs"][0]["image"]["size"] == [64, 32]
    assert tasks(runware, task("imageUpload", image="zz zz")).status_code == 400


# WaveSpeed


@pytest.fixture(scope="module")
def running_wavespeed():
    with Standin("wavespeed") as standin:
        yield standin


@pytest.fixture
def wavespeed(running_wavespeed):
    running_wavespeed.reset()
    return running_wavespeed


def posted(standin, path, **body):
    return call(standin, "POST", "/api/v3/" + path, json=body)


def uploaded(standin, data):
    ticket = posted(standin, "media/uploads", filename="x.png", size=len(data), content_type="image/png").json()["data"]
    assert requests.put(ticket["upload"]["url"], data=data, headers=ticket["upload"]["headers"], timeout=10).ok
    return ticket["download_url"]


def test_wavespeed_makes_one_picture_and_fills_in_its_defaults(wavespeed):
    wavespeed.set(job_seconds=0.1, queue_seconds=0.1)
    created = submit(wavespeed, size="512*256", output_format="png", loras=[LORA])
    assert created.json()["code"] == 200 and created.json()["data"]["status"] == "created"
    done = finished(wavespeed, created)
    body = done.json()["data"]
    assert body["input"] == {
        "prompt": "a cat",
        "seed": 7,
        "size": "512*256",
        "strength": 0.8,
        "guidance_scale": 3.5,
        "loras": [LORA],
        "output_format": "png",
        "enable_base64_output": False,
        "enable_sync_mode": False,
    }
    (picture,) = pictures_of(wavespeed, done)
    assert (picture.size, picture.format, body["has_nsfw_contents"]) == ((512, 256), "PNG", [False])
    assert is_colour(picture, expected_pixel("a cat", 7))
    assert submit(wavespeed, seed=None).json()["data"]["input"]["seed"] == -1


@pytest.mark.parametrize("way", ["ticket", "binary"])
def test_wavespeed_takes_an_input_picture_by_its_upload(wavespeed, way):
    if way == "ticket":
        address = uploaded(wavespeed, png((64, 32)))
    else:
        form = {"file": ("x.png", png((64, 32)))}
        address = call(wavespeed, "POST", "/api/v3/media/upload/binary", files=form).json()["data"]["download_url"]
    assert finished(wavespeed, submit(wavespeed, image=address, strength=0.5)).json()["data"]["status"] == "completed"
    assert wavespeed.state()["jobs"][0]["image"]["size"] == [64, 32]


def test_a_bad_value_is_refused_at_once_or_ends_the_task(wavespeed):
    wavespeed.set(refuses_late=True)
    ended = finished(wavespeed, submit(wavespeed, size="1024x1024")).json()["data"]
    assert (ended["status"], ended["code"]) == ("failed", 1401) and "size" in ended["error"]
    ended = finished(wavespeed, submit(wavespeed, image="https://x.test/none.png")).json()["data"]
    assert (ended["status"], ended["code"]) == ("failed", 1402)
    assert wavespeed.state()["billed"] == 0


def test_what_it_does_not_know_may_be_ignored_but_is_never_honoured(wavespeed):
    wavespeed.set(refuses_unknown=False)
    ended = finished(wavespeed, submit(wavespeed, num_images=3)).json()["data"]
    assert len(ended["outputs"]) == 1 and "num_images" not in ended["input"]


@pytest.mark.parametrize("word", ["cancelled", "timeout", "pondering"])
def test_a_prediction_can_end_in_other_words(wavespeed, word):
    wavespeed.set(end_word=word)
    body = finished(wavespeed, submit(wavespeed)).json()["data"]
    assert (body["status"], body["outputs"]) == (word, [])


@pytest.mark.parametrize(
    ("settings", "status", "flags"),
    [({}, "completed", [True]), ({"nsfw_told": False}, "completed", None), ({"nsfw_fails": True}, "failed", [])],
)
def test_wavespeeds_flags_are_told_missing_or_an_end(wavespeed, settings, status, flags):
    wavespeed.set(**settings)
    body = finished(wavespeed, submit(wavespeed, prompt="NSFW")).json()["data"]
    assert (body["status"], body.get("has_nsfw_contents")) == (status, flags)
    assert body.get("code") == (1200 if status == "failed" else None)


@pytest.mark.parametrize(("form", "start"), [("bare", "/9j/"), ("uri", "data:image/jpeg;base64,/9j/")])
def test_wavespeeds_base64_comes_bare_or_as_a_data_uri(wavespeed, form, start):
    wavespeed.set(base64_form=form)
    body = finished(wavespeed, submit(wavespeed, enable_base64_output=True)).json()["data"]
    assert body["outputs"][0].startswith(start)


def test_a_lost_job_is_in_the_list_without_its_input(wavespeed):
    wavespeed.fault("submit", "reset_after")
    with pytest.raises(requests.RequestException):
        submit(wavespeed)
    submit(wavespeed)
    time.sleep(0.1)
    listed = posted(wavespeed, "predictions", page=1, page_size=100, status="completed").json()["data"]
    assert listed["total"] == 2 and all("input" not in item for item in listed["items"])
    assert wavespeed.state()["billed"] == 2
    assert posted(wavespeed, "predictions", page_size=101).status_code == 400
    assert posted(wavespeed, "predictions", status="created").status_code == 400
    assert posted(wavespeed, "predictions", created_after="2999-01-01T00:00:00Z").json()["data"]["items"] == []
    assert posted(wavespeed, "predictions", model="other/model").json()["data"]["items"] == []


@pytest.mark.parametrize(("refunds", "billed"), [(False, 2), (True, 0)])
def test_deleting_removes_the_record_and_keeps_the_bill_or_not(wavespeed, refunds, billed):
    wavespeed.set(refunds_deleted=refunds, job_seconds=60)
    first, second = (submit(wavespeed).json()["data"]["id"] for _ in range(2))
    assert call(wavespeed, "DELETE", f"/api/v3/predictions/{first}").ok
    assert posted(wavespeed, "predictions/delete", ids=[second, "x"]).json()["data"]["deleted_count"] == 1
    assert call(wavespeed, "GET", f"/api/v3/predictions/{first}").status_code == 404
    assert wavespeed.state()["billed"] == billed


def test_wavespeed_tells_its_price_before_and_its_bill_after(wavespeed):
    asked = {"model_id": "wavespeed-ai/flux-krea-dev-lora", "inputs": {"prompt": "a cat"}}
    assert posted(wavespeed, "model/pricing", **asked).json()["data"]["unit_price"] == 0.025
    assert posted(wavespeed, "model/price", **asked).json()["data"]["discounted_price"] == 0.025
    wavespeed.set(pricing_paths=["price"], balance_paths=["old"], bills_after=0.2)
    assert posted(wavespeed, "model/pricing", **asked).status_code == 404
    assert call(wavespeed, "GET", "/api/v3/balance").status_code == 404
    assert call(wavespeed, "GET", "/api/v3/account/balance").json()["data"]["balance"] == 10.0
    done = finished(wavespeed, submit(wavespeed)).json()["data"]["id"]
    assert posted(wavespeed, "billings/search", prediction_uuids=[done]).json()["data"]["items"] == []
    time.sleep(0.25)
    (bill,) = posted(wavespeed, "billings/search", prediction_uuids=[done]).json()["data"]["items"]
    assert (bill["price"], bill["prediction"]["uuid"]) == (0.025, done)
    wavespeed.set(balance=0)
    assert submit(wavespeed).status_code == 402


def test_the_synchronous_mode_waits_or_gives_up_with_and_without_an_id(wavespeed):
    assert submit(wavespeed, enable_sync_mode=True).json()["data"]["status"] == "completed"
    wavespeed.set(job_seconds=60, longest_wait=0.05)
    late = submit(wavespeed, enable_sync_mode=True)
    assert (late.status_code, late.json()["data"]["code"], late.json()["data"]["status"]) == (200, 5004, "processing")
    wavespeed.set(sync_timeout="504")
    lost = submit(wavespeed, enable_sync_mode=True)
    assert lost.status_code == 504 and "data" not in lost.json() and wavespeed.state()["accepted"] == 3


def test_the_lowest_level_makes_two_pictures_a_minute(wavespeed):
    wavespeed.set(submits_a_minute=2)
    assert [submit(wavespeed).status_code for _ in range(3)] == [200, 200, 429]


def test_after_its_time_a_prediction_is_gone(wavespeed):
    wavespeed.set(picture_lifetime=0.05)
    done = finished(wavespeed, submit(wavespeed)).json()["data"]
    time.sleep(0.1)
    assert call(wavespeed, "GET", local(done["urls"]["get"])).status_code == 404
    assert requests.get(done["outputs"][0], timeout=10).status_code == 404


def test_what_is_recorded_is_whole_and_never_in_the_state(wavespeed):
    with wavespeed.recording() as seen:
        submit(wavespeed)
    submit(wavespeed)
    (request,) = seen
    assert (request.method, request.path) == ("POST", SUBMIT["wavespeed"])
    assert request.headers["Authorization"] == f"Bearer {wavespeed.key}" and request.json()["prompt"] == "a cat"
