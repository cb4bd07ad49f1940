"""Each mode of each stand-in provider: its pictures, its life, its bill."""

import base64
import io
import json
import time

import pytest
import requests
from PIL import Image
from standins import expected_pixel, start_all
from standins.plain_client import (
    EDIT,
    GENERATE,
    KREA,
    MODEL,
    PREDICT,
    body_of,
    call,
    data_uri,
    finished,
    is_colour,
    local,
    pictures_of,
    png,
    submit,
)

PICTURE = data_uri(png())


@pytest.fixture(scope="module")
def running():
    with start_all() as standins:
        yield standins


@pytest.fixture(autouse=True)
def fresh(running):
    for standin in running.values():
        standin.reset()


# The happy path of every mode


def fal_image(standin):
    token = call(standin, "POST", "/storage/auth/token?storage_type=fal-cdn-v3", json={}).json()
    headers = {
        "Authorization": f"{token['token_type']} {token['token']}",
        "X-Fal-File-Name": "x.png",
        "Content-Type": "image/png",
    }
    return requests.post(standin.base_url + "/files/upload", data=png(), headers=headers, timeout=10).json()[
        "access_url"
    ]


def fal_image_by_put(standin):
    body = {"file_name": "x.png", "content_type": "image/png"}
    target = call(standin, "POST", "/storage/upload/initiate?storage_type=gcs", json=body).json()
    put = standin.base_url + local(target["upload_url"])
    assert requests.put(put, data=png(), headers={"Content-Type": "image/png"}, timeout=10).status_code == 200
    return target["file_url"]


def replicate_image(standin):
    reply = call(standin, "POST", "/v1/files", files={"content": ("x.png", png(), "image/png")})
    assert reply.status_code == 201
    return reply.json()["urls"]["get"]


def core_image(standin):
    target = call(standin, "POST", "/v1/files/upload-url", json={"filename": "x.png", "folder": "inputs"}).json()
    form = {
        **{name: (None, text) for name, text in target["upload_fields"].items()},
        "file": ("x.png", png(), "image/png"),
    }
    assert requests.post(target["upload_url"], files=form, timeout=10).status_code == 204
    return target["file_url"]


def edit(standin, **fields):
    texts = {"model": "flux.1-krea-dev", "prompt": "a cat", "seed": "7", **fields}
    return call(standin, "POST", EDIT, data=texts, files={"image": ("x.png", png(), "image/png")})


def core_upload(standin):
    form = {"model": (None, MODEL), "input": (None, json.dumps({"prompt": "a cat", "seed": 7}))}
    return call(standin, "POST", "/v1/predictions/upload", files={**form, "file:image": ("x.png", png(), "image/png")})


def one_min_image(standin):
    return call(standin, "POST", "/api/assets", files={"asset": ("x.png", png())}).json()["fileContent"]["path"]


def fal_mode(mode, **fields):
    return lambda standin: call(standin, "POST", KREA + mode, json=body_of("fal", **fields))


# provider, how to submit, size, format, prompt of the pictures, how many
MODES = [
    ("fal", submit, (1024, 768), "JPEG", "a cat", 1),
    (
        "fal",
        fal_mode("", image_size={"width": 200, "height": 120}, num_images=3, output_format="png"),
        (200, 120),
        "PNG",
        "a cat",
        3,
    ),
    ("fal", fal_mode("/image-to-image", image_url=PICTURE), (48, 32), "JPEG", "a cat", 1),
    ("fal", lambda s: fal_mode("/image-to-image", image_url=fal_image(s))(s), (48, 32), "JPEG", "a cat", 1),
    ("fal", lambda s: fal_mode("/image-to-image", image_url=fal_image_by_put(s))(s), (48, 32), "JPEG", "a cat", 1),
    ("fal", fal_mode("/redux", image_url=PICTURE, prompt=None, image_size="square"), (512, 512), "JPEG", "", 1),
    ("replicate", lambda s: submit(s, aspect_ratio="16:9", num_outputs=2), (1344, 768), "WEBP", "a cat", 2),
    (
        "replicate",
        lambda s: submit(s, megapixels="0.25", output_format="png", aspect_ratio="21:9"),
        (768, 320),
        "PNG",
        "a cat",
        1,
    ),
    ("replicate", lambda s: submit(s, image=replicate_image(s), output_format="jpg"), (48, 32), "JPEG", "a cat", 1),
    ("lumenfall", lambda s: submit(s, size="200x120", n=2), (200, 120), "PNG", "a cat", 2),
    (
        "lumenfall",
        lambda s: submit(s, aspect_ratio="16:9", resolution="1K", output_format="webp"),
        (1365, 768),
        "WEBP",
        "a cat",
        1,
    ),
    (
        "lumenfall",
        lambda s: submit(s, model="replicate/flux.1-krea-dev", size="700x400"),
        (1344, 768),
        "PNG",
        "a cat",
        1,
    ),
    ("lumenfall", edit, (48, 32), "PNG", "a cat", 1),
    ("core_today", lambda s: submit(s, megapixels="0.25"), (512, 512), "WEBP", "a cat", 1),
    ("core_today", lambda s: submit(s, image=core_image(s)), (48, 32), "WEBP", "a cat", 1),
    ("core_today", core_upload, (48, 32), "WEBP", "a cat", 1),
    ("one_min", lambda s: submit(s, megapixels="0.25", aspect_ratio="3:2"), (608, 416), "WEBP", "a cat", 1),
    ("one_min", lambda s: submit(s, image_prompt=one_min_image(s)), (48, 32), "WEBP", "a cat", 1),
]


@pytest.mark.parametrize(("name", "send", "size", "form", "prompt", "count"), MODES)
def test_every_mode_delivers_pictures_that_name_their_request(running, name, send, size, form, prompt, count):
    standin = running[name]
    shots = pictures_of(standin, finished(standin, send(standin)))
    assert [(shot.size, shot.format) for shot in shots] == [(size, form)] * count
    assert all(is_colour(shot, expected_pixel(prompt, 7, index)) for index, shot in enumerate(shots))
    job = standin.state()["jobs"][0]
    if size == (48, 32):
        assert job["image"] == {"size": [44, 28], "format": "PNG", "mode": "RGB", "mean": [200, 40, 90]}


def test_pictures_of_different_requests_differ():
    colours = {expected_pixel(prompt, seed, index) for prompt in "abc" for seed in range(5) for index in range(4)}
    assert len(colours) == 60
    assert all(min(colour) > 0 for colour in colours)


def test_replicate_shrinks_a_large_input_to_1440_and_multiples_of_16(running):
    submit(running["replicate"], image=data_uri(png((2000, 1000))))
    assert running["replicate"].state()["jobs"][0]["size"] == [1440, 720]


# Lifecycle


def test_fals_queue_counts_down_runs_and_bills_by_the_megapixel(running):
    standin = running["fal"]
    standin.set(queue_seconds=0.3, job_seconds=0.2)
    first = submit(standin, image_size={"width": 1184, "height": 896}).json()
    assert first["status_url"] == f"https://queue.fal.run/fal-ai/flux/requests/{first['request_id']}/status"
    path, seen = local(first["status_url"]), []
    assert call(standin, "GET", local(first["response_url"])).status_code == 400
    while not seen or seen[-1][0] != "COMPLETED":
        answer = call(standin, "GET", path + "?logs=1")
        body = answer.json()
        seen.append((body["status"], answer.status_code, body.get("queue_position"), len(body.get("logs") or ())))
        time.sleep(0.02)
    positions = [position for status, _, position, _ in seen if status == "IN_QUEUE"]
    assert positions == sorted(positions, reverse=True) and set(positions) == {0, 1, 2}
    assert {(status, code) for status, code, _, _ in seen} == {
        ("IN_QUEUE", 202),
        ("IN_PROGRESS", 202),
        ("COMPLETED", 200),
    }
    assert seen[-1][3] == 5
    assert call(standin, "GET", path).json()["logs"] is None
    result = call(standin, "GET", local(first["response_url"]))
    assert result.headers["x-fal-billable-units"] == "2"
    assert standin.state()["usd"] == 0.05


def test_replicate_waits_reports_progress_and_forgets_after_its_lifetime(running):
    standin = running["replicate"]
    standin.set(job_seconds=0.2, picture_lifetime=0.1)
    unfinished = submit(standin).json()
    assert (unfinished["status"], unfinished["output"], unfinished["completed_at"]) == ("processing", None, None)
    waited = call(standin, "POST", PREDICT, json=body_of("replicate"), headers={"Prefer": "wait=5"})
    body = waited.json()
    assert (waited.status_code, body["status"], len(body["output"])) == (201, "succeeded", 1)
    assert "Using seed: 7" in body["logs"] and "28/28" in body["logs"]
    assert waited.headers["Location"] == body["urls"]["get"]
    time.sleep(0.15)
    later = call(standin, "GET", local(body["urls"]["get"])).json()
    assert (later["output"], later["data_removed"], later["input"]) == (None, True, {})
    assert requests.get(body["output"][0], timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Prefer", "wait=61", 400),
        ("Prefer", "wait=0", 400),
        ("Prefer", "respond-async", 400),
        ("Cancel-After", "soon", 422),
        ("Cancel-After", "2s", 422),
        ("Cancel-After", "1m", 201),
    ],
)
def test_replicates_headers_are_checked(running, header, value, status):
    reply = call(running["replicate"], "POST", PREDICT, json=body_of("replicate"), headers={header: value})
    assert reply.status_code == status


def test_replicate_takes_seed_zero_for_no_seed(running):
    body = finished(running["replicate"], submit(running["replicate"], seed=0)).json()
    assert "Using seed: 0\n" not in body["logs"]


def test_a_replicate_wait_can_end_early_with_output_already_there(running):
    standin = running["replicate"]
    standin.set(job_seconds=5, longest_wait=0.02, early_output=True)
    body = call(standin, "POST", PREDICT, json=body_of("replicate"), headers={"Prefer": "wait"}).json()
    assert body["status"] == "processing" and len(body["output"]) == 1


def test_core_today_speaks_both_of_its_dialects(running):
    standin = running["core_today"]
    body = finished(standin, submit(standin)).json()
    assert (body["status"], body["result"][0][:4]) == ("completed", "http")
    standin.set(dialect="reference", result_shape="dict")
    body = finished(standin, submit(standin)).json()
    assert (body["status"], body["id"][:5], list(body["output"])) == ("succeeded", "pred_", ["images"])


@pytest.mark.parametrize(
    ("settings", "status", "has_url", "result"),
    [
        ({}, 200, True, "development/images/"),
        ({"address": "result", "created": True}, 201, False, "http"),
        ({"address": "none"}, 200, False, "development/images/"),
    ],
)
def test_one_min_hides_its_picture_in_three_ways(running, settings, status, has_url, result):
    running["one_min"].set(**settings)
    reply = submit(running["one_min"])
    record = reply.json()["aiRecord"]
    assert (reply.status_code, "temporaryUrl" in record) == (status, has_url)
    assert record["aiRecordDetail"]["resultObject"][0].startswith(result)


def test_lumenfall_estimates_without_billing_and_then_tells_the_cost(running):
    standin = running["lumenfall"]
    estimate = call(standin, "POST", GENERATE + "?dryRun=true", json=body_of("lumenfall", n=3)).json()
    assert (estimate["estimated"], estimate["total_cost_micros"]) == (True, 75000)
    assert standin.state()["accepted"] == 0
    reply = submit(standin, n=2, response_format="b64_json")
    assert reply.json()["metadata"]["cost"] == standin.state()["usd"] == 0.05
    shot = Image.open(io.BytesIO(base64.b64decode(reply.json()["data"][1]["b64_json"])))
    assert is_colour(shot, expected_pixel("a cat", 7, 1))
    assert call(standin, "GET", "/v1/balance").json()["available"] == {"amount": 10.0, "currency": "usd"}
    standin.set(balance=0.01)
    assert submit(standin).status_code == 402


@pytest.mark.parametrize(
    ("fields", "files", "status"),
    [
        ({}, {}, 400),
        ({}, {"picture": ("x.png", png())}, 400),
        ({}, {"image": ("x.png", b"no")}, 400),
        ({"n": "two"}, {"image": ("x.png", png())}, 400),
        ({"num_inference_steps": "9"}, {"image": ("x.png", png())}, 422),
        ({"strength": "0.5", "num_inference_steps": "10"}, {"image": ("x.png", png())}, 200),
        ({"model": "fal/flux.1-krea-dev"}, {"image": ("x.png", png())}, 400),
        ({"model": "fal/flux.1-krea-dev-edit"}, {"image": ("x.png", png())}, 200),
    ],
)
def test_lumenfalls_edit_form_is_checked(running, fields, files, status):
    texts = {"model": "flux.1-krea-dev", "prompt": "a cat", **fields}
    form = {**{name: (None, text) for name, text in texts.items()}, **files}
    assert call(running["lumenfall"], "POST", EDIT, files=form).status_code == status


# Reconciliation lists


def test_fal_lists_finished_requests_with_their_payloads(running):
    standin = running["fal"]
    ids = [submit(standin, seed=seed).json()["request_id"] for seed in (1, 2, 3)]
    time.sleep(0.1)
    path = f"/v1/models/requests/by-endpoint?endpoint_id={KREA[1:]}&expand=payloads&limit=2"
    page = call(standin, "GET", path).json()
    rest = call(standin, "GET", f"{path}&cursor={page['next_cursor']}").json()
    items = page["items"] + rest["items"]
    assert [item["request_id"] for item in items] == ids[::-1]
    assert [item["json_input"]["seed"] for item in items] == [3, 2, 1]
    assert (page["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
    standin.set(job_seconds=60)
    submit(standin)
    assert len(call(standin, "GET", path.replace("limit=2", "limit=9")).json()["items"]) == 3
    assert call(standin, "GET", path.replace("limit=2", "limit=101")).status_code == 400
    assert call(standin, "GET", "/v1/models/requests/by-endpoint").status_code == 400


def test_replicate_and_lumenfall_list_their_jobs_newest_first(running):
    for seed in (1, 2):
        submit(running["replicate"], seed=seed)
        submit(running["lumenfall"], seed=seed, user=f"job-{seed}")
    listed = call(running["replicate"], "GET", "/v1/predictions?created_after=2020-01-01T00:00:00Z").json()
    assert [row["input"]["seed"] for row in listed["results"]] == [2, 1]
    history = call(running["lumenfall"], "GET", "/v1/requests?limit=5").json()
    assert [(row["user"], row["status"], row["cost"]) for row in history["data"]] == [
        ("job-2", "completed", 0.025),
        ("job-1", "completed", 0.025),
    ]
    assert "prompt" not in json.dumps(history)


# Cancel


def cancel_path(name, body):
    return {
        "fal": lambda: ("PUT", local(body["cancel_url"])),
        "replicate": lambda: ("POST", local(body["urls"]["cancel"])),
        "core_today": lambda: ("DELETE", f"/v1/predictions/{body['job_id']}"),
    }[name]()


@pytest.mark.parametrize("name", ["fal", "replicate", "core_today"])
@pytest.mark.parametrize("queued", [True, False])
def test_a_cancel_stops_the_job_and_only_a_queued_one_is_free(running, name, queued):
    standin = running[name]
    standin.set(queue_seconds=60 if queued else 0, job_seconds=60)
    job = submit(standin)
    reply = call(standin, *cancel_path(name, job.json()))
    assert reply.status_code in (200, 202)
    if name == "fal":
        assert reply.json() == {"status": "CANCELLATION_REQUESTED"}
        assert finished(standin, job).status_code == 499
    else:
        assert finished(standin, job).json()["status"] in ("canceled", "cancelled")
    state = standin.state()
    assert (state["accepted"], state["billed"]) == (1, 0 if queued else 1)
    assert state["cancels"][0]["effective"] is True and state["jobs"][0]["cancelled_at"]


@pytest.mark.parametrize(
    ("name", "status", "heard"), [("fal", 400, []), ("replicate", 200, [False]), ("core_today", 400, [])]
)
def test_a_cancel_after_the_end_changes_nothing(running, name, status, heard):
    standin = running[name]
    job = submit(standin)
    finished(standin, job)
    assert call(standin, *cancel_path(name, job.json())).status_code == status
    assert [cancel["effective"] for cancel in standin.state()["cancels"]] == heard
    assert standin.state()["billed"] == 1


def test_fal_gives_up_unbilled_when_the_queue_is_longer_than_the_callers_patience(running):
    running["fal"].set(queue_seconds=60)
    job = call(running["fal"], "POST", KREA, json=body_of("fal"), headers={"X-Fal-Request-Timeout": "0.05"})
    result = finished(running["fal"], job)
    assert (result.status_code, result.headers["X-Fal-Request-Timeout-Type"]) == (504, "user")
    assert running["fal"].state()["billed"] == 0


# Safety and failed jobs


def test_fal_blackens_and_flags_only_while_its_checker_is_on(running):
    standin = running["fal"]
    for safe, flags in ((True, [False, True]), (False, [False, False])):
        result = finished(standin, submit(standin, prompt="NSFW@1", num_images=2, enable_safety_checker=safe))
        assert result.json()["has_nsfw_concepts"] == flags
        assert [max(shot.convert("RGB").getpixel((9, 9))) == 0 for shot in pictures_of(standin, result)] == flags
    assert standin.state()["billed"] == 2


def test_replicate_drops_blocked_pictures_and_fails_but_bills_when_all_are(running):
    standin = running["replicate"]
    some = finished(standin, submit(standin, prompt="NSFW@0", num_outputs=3)).json()
    assert [url.rsplit("-", 1)[1] for url in some["output"]] == ["1.webp", "2.webp"]
    assert "NSFW content detected in image 0" in some["logs"]
    every = finished(standin, submit(standin, prompt="NSFW")).json()
    assert every["status"] == "failed" and "NSFW" in every["error"]
    free = finished(standin, submit(standin, prompt="NSFW", disable_safety_checker=True)).json()
    assert free["status"] == "succeeded"
    assert standin.state()["billed"] == 3


def test_the_other_three_refuse_or_fail_what_their_checker_blocks(running):
    refused = submit(running["lumenfall"], prompt="NSFW")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "CONTENT_POLICY_VIOLATION")
    assert running["lumenfall"].state()["billed"] == 0
    assert submit(running["lumenfall"], prompt="NSFW", enable_safety_checker=False).status_code == 200
    assert finished(running["core_today"], submit(running["core_today"], prompt="NSFW")).json()["status"] == "failed"
    assert submit(running["one_min"], prompt="NSFW").json()["aiRecord"]["status"] == "FAILED"
    assert (
        submit(running["one_min"], prompt="NSFW", disable_safety_checker=True).json()["aiRecord"]["status"] == "SUCCESS"
    )


def test_an_accepted_job_can_fail_in_each_providers_own_way(running):
    for standin in running.values():
        standin.fault("job", "failed")
    answers = {name: finished(standin, submit(standin)) for name, standin in running.items()}
    assert answers["fal"].status_code == 500 and answers["fal"].json()["error_type"] == "internal_error"
    assert answers["replicate"].json()["status"] == "failed" and answers["core_today"].json()["status"] == "failed"
    assert answers["lumenfall"].status_code == 502
    assert answers["one_min"].json()["aiRecord"]["status"] == "FAILED"
    assert answers["runware"].json()["errors"][0]["code"] == "providerError" and answers["runware"].status_code == 200
    assert (answers["wavespeed"].status_code, answers["wavespeed"].json()["code"]) == (200, 200)
    assert answers["wavespeed"].json()["data"]["status"] == "failed" and answers["wavespeed"].json()["data"]["error"]
    assert {name: standin.state()["billed"] for name, standin in running.items()} == {
        "fal": 0,
        "replicate": 0,
        "lumenfall": 0,
        "core_today": 1,
        "one_min": 0,
        "runware": 1,
        "wavespeed": 0,
    }
    assert all(finished(standin, submit(standin)).status_code == 200 for standin in running.values())
