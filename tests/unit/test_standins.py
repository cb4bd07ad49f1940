"""The stand-in providers are strict where the real ones are, and tell what they saw."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from standins import PROVIDERS, start_all
from standins.plain_client import (
    AUTH,
    EDIT,
    GENERATE,
    KREA,
    KREA_LORA,
    MODEL,
    PREDICT,
    SUBMIT,
    body_of,
    call,
    data_uri,
    finished,
    local,
    png,
    submit,
)

ROOT = Path(__file__).resolve().parents[2]
PICTURE, NOT_A_PICTURE = data_uri(png()), data_uri(b"not a picture")


@pytest.fixture(scope="module")
def running():
    with start_all() as standins:
        yield standins


@pytest.fixture(autouse=True)
def fresh(running):
    for standin in running.values():
        standin.reset()


# Strictness: (provider, path, JSON body, status)
BAD = [
    *(
        ("fal", KREA, body_of("fal", **bad), 422)
        for bad in (
            {"prompt": None},
            {"prompt": 3},
            {"colour": "red"},
            {"image_url": PICTURE},
            {"strength": 0.5},
            {"seed": "7"},
            {"seed": 1.5},
            {"num_inference_steps": 51},
            {"num_inference_steps": 0},
            {"num_inference_steps": 20.5},
            {"num_inference_steps": True},
            {"guidance_scale": 20.5},
            {"guidance_scale": 0.9},
            {"guidance_scale": "4"},
            {"num_images": 0},
            {"num_images": 5},
            {"enable_safety_checker": 1},
            {"sync_mode": "true"},
            {"output_format": "webp"},
            {"acceleration": "turbo"},
            {"image_size": "huge"},
            {"image_size": 512},
            {"image_size": {"width": 512}},
            {"image_size": {"width": 512.5, "height": 512}},
            {"image_size": {"width": 4096, "height": 4096}},
            {"image_size": {"width": 0, "height": 9}},
            {"seed": None, "prompt": []},
        )
    ),
    *(
        ("fal", KREA + "/image-to-image", body_of("fal", **bad), 422)
        for bad in (
            {},
            {"image_url": NOT_A_PICTURE},
            {"image_url": "https://v3.fal.media/files/none.png"},
            {"image_url": "data:image/png,zz"},
            {"image_url": PICTURE, "image_size": "square"},
            {"image_url": PICTURE, "num_inference_steps": 9},
            {"image_url": PICTURE, "strength": 0},
            {"image_url": PICTURE, "strength": 1.01},
        )
    ),
    *(("fal", KREA + "/redux", body_of("fal", **bad), 422) for bad in ({"image_url": PICTURE}, {"prompt": None})),
    ("fal", "/fal-ai/flux/unknown", {}, 404),
    ("fal", KREA_LORA + "/redux", {"image_url": PICTURE}, 404),
    ("fal", KREA + "/inpainting", body_of("fal", image_url=PICTURE, mask_url=PICTURE), 404),
    *(
        ("fal", KREA_LORA, body_of("fal", **bad), 422)
        for bad in (
            {"prompt": None},
            {"num_inference_steps": 51},
            {"num_inference_steps": 0},
            {"guidance_scale": 35.5},
            {"guidance_scale": -0.5},
            {"num_images": 5},
            {"acceleration": "high"},
            {"output_format": "webp"},
            {"loras": "owner/style"},
            {"loras": ["owner/style"]},
            {"loras": [{"scale": 1}]},
            {"loras": [{"path": "owner/style", "scale": 4.5}]},
            {"loras": [{"path": "owner/style", "scale": -1}]},
            {"loras": [{"path": "owner/style", "weight_name": "a.safetensors"}]},
            {"image_url": PICTURE},
            {"strength": 0.5},
            {"image_size": {"width": 0, "height": 64}},
        )
    ),
    *(
        ("fal", KREA_LORA + "/image-to-image", body_of("fal", **bad), 422)
        for bad in (
            {},
            {"image_url": PICTURE, "strength": 0},
            {"image_url": PICTURE, "mask_url": PICTURE},
            {"image_url": PICTURE, "acceleration": "high"},
        )
    ),
    *(
        ("fal", KREA_LORA + "/inpainting", body_of("fal", **bad), 422)
        for bad in (
            {"image_url": PICTURE},
            {"mask_url": PICTURE},
            {"image_url": PICTURE, "mask_url": NOT_A_PICTURE},
            {"image_url": PICTURE, "mask_url": data_uri(png((64, 64)))},
            {"image_url": PICTURE, "mask_url": PICTURE, "strength": 1.01},
        )
    ),
    *(
        ("replicate", PREDICT, body_of("replicate", **bad), 422)
        for bad in (
            {"prompt": None},
            {"image_size": "square"},
            {"aspect_ratio": "7:5"},
            {"num_outputs": 5},
            {"num_outputs": 0},
            {"guidance": 10.5},
            {"guidance": -1},
            {"num_inference_steps": 51},
            {"num_inference_steps": 28.0},
            {"output_format": "jpeg"},
            {"output_quality": 101},
            {"megapixels": 1},
            {"megapixels": "2"},
            {"prompt_strength": 1.1},
            {"go_fast": "yes"},
            {"disable_safety_checker": 0},
            {"image": NOT_A_PICTURE},
            {"image": "https://api.replicate.com/v1/files/none"},
            {"seed": 2.5},
        )
    ),
    ("replicate", PREDICT, {"prompt": "not wrapped in input"}, 422),
    ("replicate", "/v1/predictions", {"version": "someone/else", "input": {"prompt": "x"}}, 422),
    *(
        ("lumenfall", GENERATE, body_of("lumenfall", **bad), 400)
        for bad in (
            {"prompt": None},
            {"prompt": "x" * 1001},
            {"n": 0},
            {"n": 11},
            {"n": 1.5},
            {"size": "big"},
            {"size": "0x512"},
            {"size": "20000x512"},
            {"response_format": "png"},
            {"output_format": "jpg"},
            {"seed": "7"},
            {"aspect_ratio": "512x512"},
            {"model": "fal/flux.1-krea-dev-edit"},
        )
    ),
    *(
        ("lumenfall", GENERATE, body_of("lumenfall", **bad), 422)
        for bad in (
            {"guidance": 3},
            {"cfg_scale": 20.5},
            {"num_inference_steps": 51},
            {"go_fast": True},
            {"strength": 0.5},
            {"model": "replicate/flux.1-krea-dev", "acceleration": "none"},
            {"model": "replicate/flux.1-krea-dev", "cfg_scale": 10.5},
        )
    ),
    ("lumenfall", GENERATE, body_of("lumenfall", model="flux.1-dev"), 404),
    ("lumenfall", EDIT, body_of("lumenfall", image=PICTURE), 400),
    *(
        ("core_today", "/v1/predictions", body_of("core_today", **bad), 422)
        for bad in (
            {"prompt": None},
            {"num_outputs": 5},
            {"guidance": 11},
            {"steps": 20},
            {"image": NOT_A_PICTURE},
            {"image": "https://x.test/a.png"},
        )
    ),
    ("core_today", "/v1/predictions", {"model": "other/model", "input": {"prompt": "x"}}, 422),
    ("core_today", "/v1/predictions", {"model": MODEL, "input": "x"}, 422),
    *(
        ("one_min", "/api/features", body_of("one_min", **bad), 400)
        for bad in (
            {"prompt": None},
            {"output_format": "png"},
            {"num_outputs": 1},
            {"aspect_ratio": "4:3"},
            {"megapixels": "2"},
            {"seed": -1},
            {"seed": 4294967296},
            {"guidance": 50.5},
            {"num_inference_steps": 0},
            {"image_prompt": PICTURE},
            {"image_prompt": "images/no.png"},
        )
    ),
    *(
        ("runware", "/v1", body_of("runware", **bad), 400)
        for bad in (
            {"taskUUID": None},
            {"taskUUID": "1"},
            {"taskUUID": "00000000-0000-1000-8000-000000000000"},
            {"taskType": "imageCancel"},
            {"taskType": None},
            {"model": "runware:101@1"},
            {"prompt": None},
            {"prompt": "x"},
            {"prompt": "x" * 3001},
            {"height": None},
            {"width": 64},
            {"width": 2112},
            {"width": 520},
            {"width": 512.0},
            {"steps": 0},
            {"steps": 101},
            {"CFGScale": 50.5},
            {"seed": -1},
            {"numberResults": 0},
            {"numberResults": 21},
            {"outputFormat": "png"},
            {"outputFormat": "JPEG"},
            {"outputQuality": 100},
            {"outputType": "url"},
            {"deliveryMethod": "webhook"},
            {"strength": 0.5},
            {"inputs": {"seedImage": NOT_A_PICTURE}},
            {"inputs": {"seedImage": PICTURE, "strength": 0.5}},
            {"inputs": {"maskImage": PICTURE}},
            {"inputs": {"seedImage": PICTURE, "maskImage": data_uri(png((64, 64)))}},
            {"inputs": {"seedImage": PICTURE}, "strength": 1.1},
            {"lora": [{"model": "https://huggingface.co/a/b.safetensors"}]},
            {"lora": [{"model": "owner/style"}]},
            {"lora": [{"model": "civitai:1@2", "weight": 4.5}]},
            {"lora": {"model": "civitai:1@2"}},
            {"safety": True},
            {"safety": {"mode": "full"}},
            {"checkNSFW": True},
            {"acceleration": "high"},
            {"ttl": 30},
            {"includeCost": 1},
        )
    ),
    ("runware", "/v1", {}, 400),
    ("runware", "/v1", [], 400),
    ("runware", "/v1", ["imageInference"], 400),
    *(
        ("wavespeed", SUBMIT["wavespeed"], body_of("wavespeed", **bad), 400)
        for bad in (
            {"prompt": None},
            {"size": "1024x1024"},
            {"size": "255*512"},
            {"size": "1537*512"},
            {"size": 1024},
            {"strength": 1.1},
            {"guidance_scale": 20.5},
            {"seed": -2},
            {"seed": 2147483648},
            {"loras": [{"path": "owner/style"}]},
            {"loras": [{"path": "owner/style", "scale": 4.5}]},
            {"loras": [{"path": "owner/style", "scale": 1}] * 4},
            {"output_format": "jpg"},
            {"num_images": 2},
            {"num_inference_steps": 20},
            {"mask_image": "https://x.test/mask.png"},
            {"enable_safety_checker": False},
            {"image": PICTURE},
            {"image": "https://x.test/none.png"},
        )
    ),
    ("wavespeed", "/api/v3/wavespeed-ai/flux-krea-dev", body_of("wavespeed"), 404),
    ("one_min", "/api/features", {"type": "CHAT", "model": MODEL, "promptObject": {"prompt": "x"}}, 400),
]


@pytest.mark.parametrize(("name", "path", "body", "status"), BAD)
def test_a_bad_request_is_refused_as_the_real_one_does_and_costs_nothing(running, name, path, body, status):
    reply = call(running[name], "POST", path, json=body)
    assert reply.status_code == status, reply.text
    assert_error_shape(name, reply)
    assert running[name].state()["accepted"] == 0


def assert_error_shape(name, reply):
    body = reply.json()
    if name == "fal":
        assert isinstance(body["detail"], str) or all({"loc", "msg", "type"} <= set(each) for each in body["detail"])
    elif name == "replicate":
        assert body["status"] == reply.status_code and body["title"] and body["detail"]
    elif name == "lumenfall":
        assert set(body["error"]) == {"message", "type", "code"}
    elif name == "core_today":
        assert body["detail"]
    elif name == "runware":
        assert all(each["code"] and each["message"] for each in body["errors"])
    elif name == "wavespeed":
        assert body["code"] == reply.status_code and body["message"]
    else:
        assert body["statusCode"] == reply.status_code and body["message"]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "wrong"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Token test-key-fal:0123"},
        {"Authorization": "Bearer test-key-fal:0123"},
        {"Authorization": "Key test-key-fal"},
        {"X-API-Key": "wrong"},
        {"Authorization": "test-key-replicate"},
        {"Authorization": "Bearer test-key-1min"},
        {"API-KEY": "Bearer test-key-1min"},
    ],
)
def test_only_the_right_key_in_the_right_header_opens_a_provider(running, name, headers):
    standin = running[name]
    reply = requests.post(standin.base_url + SUBMIT[name], json=body_of(name), headers=headers, timeout=10)
    assert reply.status_code == 401
    assert standin.state()["accepted"] == 0
    assert standin.state()["requests"][-1]["authorized"] is False


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("text/plain", b"{}"),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b'{"prompt": NaN}'),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(running, name, content_type, data):
    reply = call(running[name], "POST", SUBMIT[name], data=data, headers={"Content-Type": content_type})
    assert reply.status_code in (400, 422)
    assert_error_shape(name, reply)


@pytest.mark.parametrize(
    ("name", "method", "path", "status"),
    [
        ("fal", "GET", KREA, 405),
        ("fal", "POST", "/fal-ai/flux/requests/x/cancel", 405),
        ("fal", "GET", "/fal-ai/flux/requests/x/status", 404),
        ("replicate", "DELETE", "/v1/predictions/x", 405),
        ("replicate", "POST", "/v1/predictions/x/cancel", 404),
        ("lumenfall", "GET", "/openai/v1/balance", 404),
        ("lumenfall", "GET", "/v1/requests/req_x", 404),
        ("core_today", "POST", "/v1/predictions/x", 405),
        ("one_min", "GET", "/api/features", 405),
        ("one_min", "GET", "/v1/x", 404),
        ("fal", "GET", "/fal-ai/flux-krea-lora/inpainting/requests/x/status", 404),
        ("fal", "POST", "/fal-ai/flux-krea-lora/requests/x/cancel", 405),
        ("runware", "GET", "/v1", 405),
        ("runware", "POST", "/v1/tasks", 404),
        ("wavespeed", "GET", "/api/v3/predictions/x/result", 404),
        ("wavespeed", "POST", "/api/v3/predictions/x", 405),
    ],
)
def test_wrong_paths_and_methods_are_refused(running, name, method, path, status):
    assert call(running[name], method, path).status_code == status


# Control


def test_the_log_tells_what_came_but_never_the_key(running):
    for name, standin in running.items():
        finished(standin, submit(standin))
        state = json.dumps(requests.get(standin.base_url + "/__control__/state", timeout=10).json())
        assert standin.key not in state
        entry = standin.state()["requests"][0]
        assert (entry["phase"], entry["authorized"], entry["key_seen"], entry["method"]) == (
            "submit",
            True,
            True,
            "POST",
        )
        assert "content-type" in entry["headers"] and name == standin.state()["provider"]


def test_the_control_door_sets_faults_and_settings_and_resets(running):
    standin = running["fal"]
    door = standin.base_url + "/__control__/"
    assert requests.post(door + "faults", json={"phase": "submit", "kind": "status", "status": 500}, timeout=10).ok
    assert requests.post(door + "settings", json={"job_seconds": 9}, timeout=10).ok
    assert submit(standin).status_code == 500 and standin.state()["settings"]["job_seconds"] == 9
    assert requests.post(door + "reset", timeout=10).ok
    assert standin.state()["requests"] == [] and standin.state()["settings"]["job_seconds"] == 0.05
    for path, body in (("faults", {"phase": "submit", "kind": "no"}), ("settings", {"no": 1}), ("faults", {})):
        assert requests.post(door + path, json=body, timeout=10).status_code == 400


def test_polls_and_pictures_are_counted_and_delays_hold_an_answer_back(running):
    standin = running["fal"]
    standin.set(delays={"poll": 0.2})
    job = submit(standin).json()
    with pytest.raises(requests.Timeout):
        requests.get(standin.base_url + local(job["status_url"]), headers=AUTH["fal"], timeout=0.05)
    assert standin.state()["jobs"][0]["polls"] == 1


def test_a_stand_in_runs_as_a_process_of_its_own():
    command = [sys.executable, "-m", "tests.standins", "fal", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            name, address = process.stdout.readline().strip().split("=")
            assert name == "FLUX_KREA_BASE_URL_FAL"
            assert requests.get(address + "/__control__/state", timeout=10).json()["provider"] == "fal"
        finally:
            process.terminate()


def test_the_stand_ins_import_nothing_of_the_pack():
    for file in (ROOT / "tests" / "standins").glob("*.py"):
        assert "flux_krea" not in file.read_text()


# What surrounds the paid call


def test_fal_tells_prices_and_the_balance(running):
    standin = running["fal"]
    prices = call(standin, "GET", "/v1/models/pricing?endpoint_id=fal-ai/flux/krea").json()["prices"]
    assert [(row["endpoint_id"], row["unit_price"]) for row in prices] == [("fal-ai/flux/krea", 0.025)]
    units = {"estimate_type": "unit_price", "endpoints": {"fal-ai/flux/krea": {"unit_quantity": 2}}}
    assert call(standin, "POST", "/v1/models/pricing/estimate", json=units).json()["total_cost"] == 0.05
    assert call(standin, "GET", "/v1/account/billing?expand=credits").json()["credits"]["current_balance"] == 10.0
    standin.set(balance=0)
    assert submit(standin).status_code == 403


def test_lumenfalls_history_carries_the_callers_trace_id(running):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    job = call(running["lumenfall"], "POST", GENERATE, json=body_of("lumenfall"), headers=headers).json()
    assert call(running["lumenfall"], "GET", f"/v1/requests/{job['id']}").json()["trace_id"] == trace


def test_settings_bring_out_the_odd_answers(running):
    running["lumenfall"].set(error_in_200=True)
    running["lumenfall"].fault("job", "failed")
    reply = submit(running["lumenfall"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (200, "ALL_PROVIDERS_EXHAUSTED")
    running["one_min"].set(asset_without_content=True)
    asset = call(running["one_min"], "POST", "/api/assets", files={"asset": ("x.png", png())}).json()
    assert "fileContent" not in asset
    running["core_today"].set(result_shape="string")
    assert finished(running["core_today"], submit(running["core_today"])).json()["result"].startswith("http")


def test_a_job_that_never_ends_stays_running_and_can_be_cancelled(running):
    standin = running["fal"]
    standin.fault("job", "never_ends")
    job = submit(standin).json()
    assert standin.state()["jobs"][0]["stage"] == "running"
    assert call(standin, "PUT", local(job["cancel_url"])).status_code == 202
    assert standin.state()["jobs"][0]["stage"] == "stopped"


@pytest.mark.parametrize(("name", "path", "form"), [
    ("replicate", "/v1/files", {"file": ("x.png", b"x")}),
    ("core_today", "/v1/predictions/upload", {"image": ("x.png", b"x")}),
    ("one_min", "/api/assets", {"file": ("x.png", b"x")}),
    ("one_min", "/api/assets", {"asset": ("no_extension", b"x")}),
])  # fmt: skip
def test_an_upload_without_its_part_is_refused(running, name, path, form):
    assert call(running[name], "POST", path, files=form).status_code in (400, 422)
    assert call(running[name], "POST", path, json={}).status_code in (400, 422)
