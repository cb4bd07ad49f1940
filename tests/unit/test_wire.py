"""Our own client says what the providers' own clients say: the same addresses, headers and bodies, in the same order.

What they said is in official/, written by test_official_clients.py.
"""

import pytest
import wire
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers.contract import IMAGE_TO_IMAGE, REDUX, GenerationRequest
from standins import Standin
from standins.plain_client import png

PNG = png((64, 32))
COMMON = {"width": 512, "height": 512, "steps": 12, "guidance": 4.0, "seed": 41, "strength": 0.8, "quality": 90}
TEXT = GenerationRequest("a red fox in the snow", **COMMON)
IMAGE = GenerationRequest("a red fox in the snow", mode=IMAGE_TO_IMAGE, image=PNG, **COMMON)
SAME = {
    "fal_text": ("fal", TEXT),
    "fal_image": ("fal", IMAGE),
    "fal_redux": ("fal", GenerationRequest("", mode=REDUX, image=PNG, **COMMON)),
    "replicate_text": ("replicate", TEXT),
    "replicate_image": ("replicate", IMAGE),
    "lumenfall_text": ("lumenfall", TEXT),
    "lumenfall_image": ("lumenfall", IMAGE),
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
    return wire.exchange(seen, standin.key)


@pytest.mark.parametrize("case", SAME)
def test_our_client_says_what_the_official_one_says(case, tmp_path, monkeypatch):
    name, request = SAME[case]
    with Standin(name) as standin:
        said = ours(standin, name, request, tmp_path, monkeypatch)
    # fal's client asks once more, without the logs, before it takes the result.
    assert said == [line for line in wire.recorded(case) if line["query"].get("logs") != "false"]
