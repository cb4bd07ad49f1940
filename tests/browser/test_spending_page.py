"""Money on the page: the server's limits in the settings, the way out of a lost answer, and what an opened workflow costs."""

import json

import pytest
from comfyui import ComfyUI
from page_driver import RUN, api_flow, flow, load, node, screen, wait_for_text

LIMITS = ("FLUX_KREA_MAX_COST_USD", "FLUX_KREA_MAX_COST_USD_24H")


@pytest.fixture(scope="module")
def comfyui(all_standins, tmp_path_factory):
    """A server whose environment sets no limit, so that its own hold and can be set on the page."""
    environment = {**all_standins.env, **dict.fromkeys(LIMITS, "")}
    with ComfyUI(tmp_path_factory.mktemp("spending"), arguments=("--cpu",), environment=environment) as server:
        yield server


def billed(standin) -> int:
    return standin.state()["billed"]


def test_the_settings_say_what_was_spent_and_set_the_servers_limits(comfyui, page, renderer):
    load(page, api_flow(provider="fal"))
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.get_by_role("dialog").get_by_text("FLUX Krea", exact=True).first.click()
    spending = page.locator(".flux-krea-keys fieldset", has_text="in the last 24 hours")
    spending.get_by_text("spent in the last 24 hours").wait_for()
    field = spending.get_by_label("Most for one run, in US dollars", exact=True)
    assert field.input_value() == "1"
    field.fill("2.5")
    spending.get_by_role("button", name="Most for one run, in US dollars: Save").press("Enter")
    spending.get_by_text("Saved.").wait_for()
    assert comfyui.get("/flux_krea/spending").json()["limits"]["per_run"] == {
        "usd": 2.5, "source": "file", "variable": "FLUX_KREA_MAX_COST_USD",
    }  # fmt: skip
    field.fill("")
    spending.get_by_role("button", name="Most for one run, in US dollars: Save").press("Enter")
    spending.get_by_text("Give an amount").wait_for()
    page.screenshot(path=screen(f"spending-{renderer}.png"))
    spending.get_by_role("button", name="Most for one run, in US dollars: Default").press("Enter")
    page.wait_for_function("(field) => field.value == '1'", arg=field.element_handle())
    assert not json.loads((comfyui.base / "user" / "__flux_krea" / "limits.json").read_text())


def test_a_lost_answer_has_a_button_that_orders_again(page, standins, renderer):
    prompt = f"a letter lost in the {renderer}"
    standins["lumenfall"].fault("submit", "reset_after", 1, prompt=prompt)
    load(page, api_flow(provider="lumenfall", prompt=prompt))
    assert "nobody knows whether it was paid" in page.evaluate(RUN)
    wait_for_text(page, "nobody knows whether it was paid")
    again = page.get_by_role("button", name="Order again, and perhaps pay twice")
    page.screenshot(path=screen(f"order-again-{renderer}.png"))
    assert billed(standins["lumenfall"]) == 1
    again.press("Enter")
    wait_for_text(page, "billed by Lumenfall")
    assert billed(standins["lumenfall"]) == 2


def test_an_opened_workflow_says_what_its_api_nodes_cost_together(page):
    values = api_flow(provider="fal", images=16)["nodes"][0]["widgets_values"]
    nodes = [node(index, "FluxKreaSubmit", (100 + 400 * index, 200), values) for index in range(1, 5)]
    nodes.append({**node(5, "FluxKreaSubmit", (100, 900), values), "mode": 4})  # bypassed
    load(page, flow(*nodes))
    said = page.get_by_text("4 API nodes: a run costs about $1.60.").last  # newer pages say it to screen readers first
    said.wait_for()
    assert "This server allows $1.00 a run" in said.inner_text()
