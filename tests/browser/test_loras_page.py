"""The list of LoRAs on API Krea: rows by mouse or keyboard, and a text that is saved."""

import pytest
from page_driver import api_flow, graph_of, load, saved, screen, set_value, wait_for_text

ROWS = "[aria-label='LoRAs'] [role=listitem]"


@pytest.fixture
def list_of(page):
    """The list on a node at fal, as a locator of what is visible."""
    load(page, api_flow(provider="fal"))
    group = page.get_by_role("group", name="LoRAs")
    group.get_by_role("button", name="Add a LoRA").wait_for()
    return group


def text_of(page) -> str:
    return graph_of(page)["1"]["inputs"]["loras"]


def test_rows_come_and_go_by_keyboard_and_the_text_follows(page, list_of, renderer):
    assert text_of(page) == "" and list_of.get_by_role("listitem").count() == 0
    list_of.get_by_role("button", name="Add a LoRA").press("Enter")
    page.keyboard.type("owner/style")
    page.keyboard.press("Tab")
    page.keyboard.type("0.8")
    page.keyboard.press("Enter")  # the next row, and its first field
    page.keyboard.type("https://host.example/b.safetensors")
    assert text_of(page) == "owner/style 0.8\nhttps://host.example/b.safetensors 1"
    wait_for_text(page, "0.035")
    wait_for_text(page, "LoRA owner/style, strength 0.8")
    page.screenshot(path=screen(f"loras-{renderer}.png"))
    list_of.get_by_role("button", name="Remove LoRA 1").press("Enter")
    assert text_of(page) == "https://host.example/b.safetensors 1"
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Remove LoRA 1"
    page.keyboard.press("Enter")
    assert text_of(page) == "" and page.evaluate("() => document.activeElement.textContent") == "Add a LoRA"
    wait_for_text(page, "0.025")


def test_a_saved_text_comes_back_as_rows_and_stays_what_it_was(page, list_of):
    text = "owner/style 0.8\n  civitai:1234@5678   -0.5\n\nme/other"
    set_value(page, "loras", text)
    load(page, saved(page))
    rows = list_of.get_by_role("listitem")
    rows.nth(2).wait_for()
    fields = [[field.input_value() for field in row.locator("input").all()] for row in rows.all()]
    assert fields == [["owner/style", "0.8"], ["civitai:1234@5678", "-0.5"], ["me/other", "1"]]
    assert text_of(page) == text  # nobody has touched it


def test_the_list_is_there_for_providers_that_take_loras_and_for_what_they_would_refuse(page, list_of):
    set_value(page, "provider", "replicate")
    list_of.wait_for(state="hidden")
    set_value(page, "loras", "owner/style 0.8")
    list_of.wait_for(state="visible")
    wait_for_text(page, "takes no LoRA")
    set_value(page, "loras", "")
    list_of.wait_for(state="hidden")
    set_value(page, "provider", "runware")
    list_of.wait_for(state="visible")
    set_value(page, "loras", "owner/style")
    wait_for_text(page, "Runware takes AIR ids")
