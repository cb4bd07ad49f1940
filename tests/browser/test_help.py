"""Help pages and translations: complete, in step with the nodes and the page, and shown to the user."""

import json
import os
import re

import page_driver
import pytest
from comfyui import ROOT
from page_driver import api_flow, flow, frame_of_first_node, load, screen, wait_for_text, write_picture
from PIL import Image

LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es")
SENTENCE = re.compile(r'\bsay\(\s*"((?:[^"\\]|\\.)*)"')
SLOT = re.compile(r"\{\w+\}")
SHELVES = """(names) => names.forEach((name, index) => {
  const node = LiteGraph.createNode(name);
  node.pos = [(index % 6) * 440, Math.floor(index / 6) * 900];
  app.graph.add(node);
  app.canvas.ds.scale = 1; // from afar the Vue renderer writes nothing
  app.canvas.ds.offset = [90, 90];
})"""
ESCAPED = re.compile(r"\{'([{}@|])'\}")  # in nodeDefs, where vue-i18n reads these signs as its own


def our_nodes(comfyui) -> dict:
    return {name: node for name, node in comfyui.object_info().items() if name.startswith("FluxKrea")}


def texts_of(node: dict) -> dict:
    """What a node says in its schema, in the form of a nodeDefs.json."""
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    options = {name: spec[1] if len(spec) > 1 else {} for name, spec in inputs.items()}
    texts = {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: {"tooltip": said["tooltip"]} for name, said in options.items() if said.get("tooltip")},
        "outputs": {
            str(index): {"tooltip": tooltip}
            for index, tooltip in enumerate(node.get("output_tooltips") or [])
            if tooltip
        },
    }
    return {part: text for part, text in texts.items() if text}


def locale(language: str, file: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))


def unescaped(texts):
    if isinstance(texts, dict):
        return {name: unescaped(text) for name, text in texts.items()}
    return ESCAPED.sub(r"\1", texts)


def keys_of(texts) -> dict | None:
    return {name: keys_of(text) for name, text in texts.items()} if isinstance(texts, dict) else None


def test_the_english_texts_are_those_of_the_nodes(comfyui):
    """Where this fails, a node's words have changed: change locales/en/nodeDefs.json, and the six translations with it."""
    english = unescaped(locale("en", "nodeDefs"))
    for name, node in our_nodes(comfyui).items():
        assert english.get(name) == texts_of(node), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_and_no_other(language):
    assert keys_of(locale(language, "nodeDefs")) == keys_of(locale("en", "nodeDefs"))
    for text in re.findall(
        r'"(?:tooltip|description|display_name)": "(.*)"', json.dumps(locale(language, "nodeDefs"), indent=1)
    ):
        assert not re.search(r"[{}@|]", ESCAPED.sub("", text)), text
    sentences = {said for file in (ROOT / "web").glob("*.js") for said in SENTENCE.findall(file.read_text("utf-8"))}
    translated = locale(language, "main")["flux_krea"]
    assert set(translated) == sentences
    for sentence, translation in translated.items():
        assert translation and sorted(SLOT.findall(translation)) == sorted(SLOT.findall(sentence))


def test_the_server_hands_the_languages_to_the_page(comfyui):
    served = comfyui.get("/i18n").json()
    for language in LANGUAGES:
        assert served[language]["nodeDefs"]["FluxKreaAPI"] == locale(language, "nodeDefs")["FluxKreaAPI"]
        assert served[language]["flux_krea"] == locale(language, "main")["flux_krea"]


def test_each_node_has_a_help_page_that_names_its_own_inputs(comfyui):
    for name, node in our_nodes(comfyui).items():
        page = comfyui.get(f"/extensions/flux-krea/docs/{name}.md").text
        assert page.startswith(f"# {node['display_name']}\n")
        assert f"](images/{name}.png)" in page and comfyui.get(f"/extensions/flux-krea/docs/images/{name}.png").content
        known = {*node["input"].get("required", {}), *node["input"].get("optional", {})}
        for listed in re.findall(r"^(?:- |\| )((?:`\w+`(?:, | and )?)+)", page, re.M):
            assert set(re.findall(r"`(\w+)`", listed)) <= known, (name, listed)
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == set(our_nodes(comfyui))


def test_help_opens_on_the_page(page, renderer):
    load(page, api_flow(provider="fal"))
    page.evaluate("() => app.canvas.selectNode(app.graph.getNodeById(1))")
    page.locator("[data-testid=info-button]").click()
    page.get_by_text("takes the cheapest provider with a key").first.wait_for()
    page.screenshot(path=screen(f"help-{renderer}.png"))


def test_the_page_speaks_the_users_language(comfyui, page):
    comfyui.post("/settings", {"Comfy.Locale": "fr"}).raise_for_status()
    try:
        page.reload()
        page.wait_for_function("() => window.app?.graph && document.querySelector('canvas')")
        page.wait_for_timeout(2000)
        load(page, api_flow(provider="fal"))
        wait_for_text(page, "chez fal\nfal : clé définie")
    finally:
        comfyui.post("/settings", {"Comfy.Locale": "en"}).raise_for_status()


def test_every_node_has_its_picture_in_the_help(comfyui, page, renderer):
    """`FLUX_KREA_WRITE_DOCS=1` takes them anew, with the canvas renderer."""
    for name in our_nodes(comfyui):
        path = ROOT / "web" / "docs" / "images" / f"{name}.png"
        if os.environ.get("FLUX_KREA_WRITE_DOCS") and renderer == "canvas":
            take_picture(page, name, path)
        with Image.open(path) as picture:
            assert picture.width > 300 and picture.height > 80
        assert f"images/{name}.png" in (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_every_node_can_be_looked_at_in_either_theme(comfyui, page, renderer):
    """The pictures lie in .dev/screens, for the eye; what is asserted is that no node is missing or broken."""
    nodes = our_nodes(comfyui)
    page.set_viewport_size({"width": 2760, "height": 1960})
    load(page, flow())
    page.evaluate(SHELVES, list(nodes))
    for palette in ("light", "dark"):
        page.evaluate("(palette) => app.extensionManager.setting.set('Comfy.ColorPalette', palette)", palette)
        page.wait_for_timeout(1500)
        page.screenshot(path=screen(f"nodes-{renderer}-{palette}.png"))
    assert page.evaluate("() => app.graph.nodes.map((node) => node.comfyClass)") == list(nodes)
    if renderer == "vue":
        page.get_by_text("Krea Safety Check").wait_for()
        titles = {text.strip().split("\n")[0] for text in page.locator("[data-node-id]").all_inner_texts()}
        assert {node["display_name"] for node in nodes.values()} <= titles


def take_picture(page, name: str, path) -> None:
    """The node alone, as it is when it is added."""
    load(
        page, flow({key: value for key, value in page_driver.node(1, name, (0, 0)).items() if key != "widgets_values"})
    )
    write_picture(page, path, frame_of_first_node(page, 340))
