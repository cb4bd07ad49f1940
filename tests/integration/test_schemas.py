"""What users have saved keeps working: node ids, inputs, their order, option values and outputs are a promise.

`FLUX_KREA_WRITE_DOCS=1` adds what is new to frozen_nodes.json. What is there is never changed by hand.
"""

import json
import os
from pathlib import Path

FROZEN = Path(__file__).with_name("frozen_nodes.json")
OF_THE_MACHINE = {"unet_name", "clip_name1", "clip_name2", "vae_name", "detector"}  # options are the user's own files
OF_COMFYUI = {"sampler_name", "scheduler"}  # options are ComfyUI's, which only ever adds


def schemas(comfyui) -> dict:
    """Each of our nodes: its inputs in order, with type and options, and its outputs."""
    return {
        name: {
            "inputs": [
                described(key, specification)
                for group in ("required", "optional")
                for key, specification in info["input"].get(group, {}).items()
            ],
            "outputs": list(zip(info["output"], info["output_name"], info["output_is_list"], strict=True)),
        }
        for name, info in comfyui.object_info().items()
        if name.startswith("FluxKrea")
    }


def described(name: str, specification: list) -> dict:
    kind, settings = specification[0], (specification[1:] or [{}])[0]
    options = kind if isinstance(kind, list) else settings.get("options", [])
    kind = "COMBO" if isinstance(kind, list) else kind
    return {"name": name, "type": kind, "options": [] if name in OF_THE_MACHINE | OF_COMFYUI else options}


def test_nothing_that_a_saved_workflow_relies_on_has_changed(comfyui):
    now = json.loads(json.dumps(schemas(comfyui)))
    if os.environ.get("FLUX_KREA_WRITE_DOCS"):
        FROZEN.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert set(now) == set(frozen), "a new node is frozen with FLUX_KREA_WRITE_DOCS=1, an old one is never removed"
    for name, promised in frozen.items():
        inputs = now[name]["inputs"]
        assert [(each["name"], each["type"]) for each in inputs] == [
            (each["name"], each["type"]) for each in promised["inputs"]
        ]
        for old, new in zip(promised["inputs"], inputs, strict=True):
            assert set(old["options"]) <= set(new["options"]), (name, old["name"])
        assert now[name]["outputs"] == promised["outputs"]


def test_every_node_is_found_by_other_words_where_comfyui_knows_such_words(comfyui):
    nodes = comfyui.object_info()
    ours = {name: node.get("search_aliases") or [] for name, node in nodes.items() if name.startswith("FluxKrea")}
    knows_words = any(node.get("search_aliases") for name, node in nodes.items() if name not in ours)
    assert len(ours) >= 12
    assert all(bool(words) == knows_words for words in ours.values()), ours
    advanced = nodes["FluxKreaAPI"]["input"]["required"]["steps"][1].get("advanced", False)
    assert advanced == knows_words  # both came within a few versions of one another, long before the newest one here
