"""A template as an app: a prompt goes in, a picture comes out, and no wire is to be seen."""

import json

from comfyui import ROOT
from page_driver import screen

APPS_SINCE = (1, 41)
FIELD = "[data-testid=app-mode-widget-item]"
VERSION = "() => window.__COMFYUI_FRONTEND_VERSION__"
LOAD = "([flow, name]) => app.loadGraphData(flow, true, true, name)"


def test_a_prompt_goes_in_and_a_picture_comes_out(comfyui, page, standins, renderer):
    standins["runware"].set(job_seconds=0.2)
    app = json.loads((ROOT / "workflows" / "app_api_text_to_image.json").read_text(encoding="utf-8"))
    page.evaluate(LOAD, [app, f"app in {renderer}"])
    page.wait_for_timeout(1000)
    if tuple(map(int, page.evaluate(VERSION).split(".")[:2])) < APPS_SINCE:
        assert page.evaluate("() => app.graph.nodes.length") == len(app["nodes"])  # an older page opens the graph
        assert page.locator(FIELD).count() == 0
        return
    page.keyboard.press("Escape")  # ComfyUI's own welcome to apps
    fields = [field.strip().split("\n")[0] for field in page.locator(FIELD).all_inner_texts()]
    assert fields == [name for _, name in app["extra"]["linearData"]["inputs"][:-1]] + ["Report"]
    prompt = f"a red fox asked for by an app in {renderer}"
    page.locator(FIELD).first.locator("textarea").fill(prompt)
    card = page.locator(f"{FIELD} .flux-krea-card")
    assert "≈ $0.0098" in card.inner_text()  # the cheapest, which auto takes
    page.get_by_role("button", name="Run", exact=True).last.click()
    page.locator("img[src*='FLUX_Krea']").first.wait_for(state="attached")
    page.screenshot(path=screen(f"app-{renderer}.png"))
    assert "billed by Runware" in card.inner_text()
    assert [job["prompt"] for job in standins["runware"].state()["jobs"]] == [prompt]
