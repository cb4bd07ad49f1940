"""The app templates: the same graphs as their templates, with the fields that an app shows. An app has no wires to see.

`FLUX_KREA_WRITE_DOCS=1` makes them anew.
"""

import json
import os
import uuid
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
CARD = "report"  # the name of the card's widget; web/flux_krea.js gives it
# template → what the app shows of it, from top to bottom, and the nodes whose pictures it shows
APPS = {
    "text_to_image": ([(2, "text"), (3, "aspect_ratio"), (4, "seed")], [7]),
    "redux": ([(4, "image"), (6, "text"), (7, "strength"), (8, "aspect_ratio"), (9, "seed")], [12]),
    "api_text_to_image": (
        [(1, "prompt"), (1, "provider"), (1, "width"), (1, "height"), (1, "images"), (1, "seed"), (1, CARD)],
        [2],
    ),
}


def app_of(name: str) -> dict:
    """The template as an app; older pages, which have no apps, open it as the graph that it is."""
    workflow = read(name)
    inputs, outputs = APPS[name]
    workflow["id"] = str(uuid.uuid5(uuid.UUID(workflow["id"]), "app"))
    workflow["extra"] = {
        **workflow["extra"],
        "linearMode": True,
        "linearData": {
            "inputs": [[str(node), name] for node, name in inputs],
            "outputs": [str(node) for node in outputs],
        },
    }
    return workflow


def read(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", APPS)
def test_an_app_is_its_template_with_fields(name):
    app = app_of(name)
    if os.environ.get("FLUX_KREA_WRITE_DOCS"):
        text = json.dumps(app, indent=1, ensure_ascii=False) + "\n"
        (WORKFLOWS / f"app_{name}.json").write_text(text, encoding="utf-8")
    assert read(f"app_{name}") == app
    nodes = {str(node["id"]) for node in app["nodes"]}
    fields = app["extra"]["linearData"]
    assert {node for node, _ in fields["inputs"]} | set(fields["outputs"]) <= nodes
