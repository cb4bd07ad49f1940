"""The settings page for keys: set, tested, removed, and afterwards nowhere to be found but in the private folder."""

import json

import pytest
from comfyui import ComfyUI
from page_driver import api_flow, load, saved, screen, set_value, wait_for_text, write_readme_picture

PAGE = "() => document.documentElement.outerHTML + JSON.stringify({ ...localStorage, ...sessionStorage })"


@pytest.fixture(scope="module")
def comfyui(all_standins, tmp_path_factory):
    """A server of its own, whose environment has fal's address and nobody's key."""
    keys = {standin.provider.key_variable for standin in all_standins.values()}
    environment = {name: value for name, value in all_standins.env.items() if name not in keys}
    environment |= dict.fromkeys(keys, "")  # also not the tester's own
    with ComfyUI(tmp_path_factory.mktemp("keys"), arguments=("--cpu",), environment=environment) as server:
        yield server


@pytest.fixture
def card(page):
    """fal's part of the settings page."""
    load(page, api_flow(provider="fal"))
    wait_for_text(page, "fal: no key yet")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    card = page.locator(".flux-krea-keys fieldset", has_text="Get a key at fal")
    page.get_by_role("dialog").get_by_text("FLUX Krea", exact=True).first.click()
    card.wait_for()
    return card


def test_a_key_is_set_tested_removed_and_found_nowhere(comfyui, page, card, standins, renderer):
    key = standins["fal"].key
    assert "No key." in card.inner_text()
    card.get_by_label("fal key").fill("wrong-test-key")
    card.get_by_role("button", name="Save").press("Enter")
    card.get_by_text("Saved.").wait_for()
    card.get_by_role("button", name="Test").press("Enter")
    card.get_by_text("does not take this key").wait_for()

    field = card.get_by_label("fal key")
    assert field.get_attribute("type") == "password"
    field.fill(key)
    field.press("Enter")
    card.get_by_text("Saved.").wait_for()
    card.get_by_text("A key is stored on the server.").wait_for()
    card.get_by_role("button", name="Test").press("Enter")
    card.get_by_text("fal takes this key.").wait_for()
    page.screenshot(path=screen(f"keys-{renderer}.png"))
    if renderer == "canvas":
        write_readme_picture(page, "keys", page.get_by_role("dialog").first.bounding_box())
    assert field.input_value() == ""
    assert json.loads((comfyui.base / "user" / "__flux_krea" / "keys.json").read_text()) == {"fal": key}

    wait_for_text(page, "fal: key is set")
    places = {
        "page": page.evaluate(PAGE),
        "settings": json.dumps(comfyui.get("/settings").json()),
        "keys": json.dumps(comfyui.get("/flux_krea/keys").json()),
        "workflow": json.dumps(saved(page)),
        "log": comfyui.log(),
    }
    assert [name for name, text in places.items() if key in text or "wrong-test-key" in text] == []

    card.get_by_role("button", name="Remove").press("Enter")
    card.get_by_text("No key.").wait_for()
    wait_for_text(page, "fal: no key")


def test_a_missing_key_is_set_from_the_node_itself(page, standins, renderer):
    load(page, api_flow(provider="auto"))
    wait_for_text(page, "No provider has a key yet.")
    set_value(page, "provider", "replicate")
    wait_for_text(page, "Replicate: no key yet")
    way = page.get_by_role("button", name="Set the key…")
    way.click()
    dialog = page.get_by_role("dialog", name="API keys")
    assert dialog.locator("input:focus").get_attribute("aria-label") == "Replicate key"
    page.screenshot(path=screen(f"keys-dialog-{renderer}.png"))
    page.keyboard.type(standins["replicate"].key)
    page.keyboard.press("Enter")
    dialog.get_by_text("Saved.").wait_for()
    dialog.get_by_role("button", name="Done").click()
    dialog.wait_for(state="detached")
    wait_for_text(page, "Replicate: key is set")
    assert way.count() == 0
    set_value(page, "provider", "auto")
    wait_for_text(page, "at Replicate\nReplicate: key is set")

    set_value(page, "provider", "fal")
    wait_for_text(page, "fal: no key yet")
    way.press("Enter")
    dialog.get_by_role("button", name="Replicate: Remove").press("Enter")
    dialog.get_by_text("Removed.").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_seven_clicks_lead_from_the_installed_pack_to_the_first_picture(comfyui, page, standins, renderer):
    standins["fal"].set(job_seconds=0.2, queue_seconds=0)
    page.get_by_role("button", name="Templates").first.click()
    page.get_by_role("dialog").get_by_text("flux-krea", exact=True).first.click()
    page.locator("[data-testid=template-workflow-api_text_to_image]").click()
    page.get_by_role("button", name="Set the key…").click()
    window = page.get_by_role("dialog", name="API keys")
    window.get_by_label("fal key").click()
    page.keyboard.type(standins["fal"].key)
    page.keyboard.press("Enter")
    window.get_by_text("Saved.").wait_for()
    window.get_by_role("button", name="Done").click()
    set_value(
        page, "seed", len(renderer)
    )  # a picture of its own in each renderer: ComfyUI shows nothing of what it has
    page.get_by_role("button", name="Run", exact=True).first.click()
    try:
        wait_for_text(page, "fal · 1 × 1024 × 1024")
    finally:
        comfyui.post("/flux_krea/keys/remove", {"provider": "fal"}).raise_for_status()
