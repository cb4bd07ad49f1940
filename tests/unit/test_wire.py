"""Our own client says what the providers' own clients say: the same addresses, headers and bodies, in the same order.

What they said is in official/, written by test_official_clients.py.
"""

from dataclasses import replace

import pytest
import wire
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers.contract import IMAGE_TO_IMAGE, INPAINTING, REDUX, GenerationRequest, Lora
from standins import Standin
from standins.plain_client import png

PNG = png((64, 32))
COMMON = {"width": 512, "height": 512, "steps": 12, "guidance": 4.0, "seed": 41, "strength": 0.8, "quality": 90}
TEXT = GenerationRequest("a red fox in the snow", **COMMON)
IMAGE = GenerationRequest("a red fox in the snow", mode=IMAGE_TO_IMAGE, image=PNG, **COMMON)
STYLE = (Lora("owner/style", 0.8),)
MASK = png((64, 32), (255, 255, 255))
OUR_OWN = ("/model/price", "/model/pricing", "/billings/search")  # what we ask beside it, for nothing
SAME = {
    "fal_text": ("fal", TEXT),
    "fal_image": ("fal", IMAGE),
    "fal_redux": ("fal", GenerationRequest("", mode=REDUX, image=PNG, **COMMON)),
    "replicate_text": ("replicate", TEXT),
    "replicate_image": ("replicate", IMAGE),
    "lumenfall_text": ("lumenfall", TEXT),
    "lumenfall_image": ("lumenfall", IMAGE),
    "fal_lora_text": ("fal", replace(TEXT, loras=STYLE)),
    "fal_lora_image": ("fal", replace(IMAGE, loras=STYLE)),
    "fal_lora_inpainting": ("fal", replace(IMAGE, mode=INPAINTING, mask=MASK)),
    "wavespeed_text": ("wavespeed", replace(TEXT, loras=STYLE)),
    "wavespeed_image": ("wavespeed", IMAGE),
}
# Its own client speaks over a WebSocket: only the tasks can be compared.
SAME_TASKS = {
    "runware_text": TEXT,
    "runware_lora": replace(TEXT, loras=(Lora("civitai:1@2", 0.8),)),
    "runware_image": IMAGE,
}


def ours(standin, name, request, folder, monkeypatch):
    for variable, value in standin.env.items():
        monkeypatch.setenv(variable, value)
    jobs = Jobs(folder / "private", folder / "pictures")
    try:
        with standin.recording() as seen:
            assert jobs.start(name, request).result(30).pictures
    finally:
        jobs.close()
    return [line for line in wire.exchange(seen, standin.key) if not line["address"].endswith(OUR_OWN)]


@pytest.mark.parametrize("case", SAME)
def test_our_client_says_what_the_official_one_says(case, tmp_path, monkeypatch):
    name, request = SAME[case]
    with Standin(name) as standin:
        said = ours(standin, name, request, tmp_path, monkeypatch)
    # fal's client asks once more, without the logs, before it takes the result.
    assert said == [line for line in wire.recorded(case) if line["query"].get("logs") != "false"]


@pytest.mark.parametrize("case", SAME_TASKS)
def test_our_tasks_are_those_of_the_official_client(case, tmp_path, monkeypatch):
    with Standin("runware") as standin:
        said = ours(standin, "runware", SAME_TASKS[case], tmp_path, monkeypatch)
    assert {line["address"] for line in said} == {"https://api.runware.ai/v1"}
    assert {line["headers"]["authorization"] for line in said} == {"Bearer {key}"}
    told = [task for line in wire.recorded(case) for task in line["body"] if task["taskType"] != "authentication"]
    assert [task for line in said for task in line["body"]] == told
