"""The page in a real Chromium, once with the canvas renderer and once with the Vue renderer."""

import os
import re

import pytest
from playwright.sync_api import sync_playwright

READY = "() => window.app?.extensionManager?.workflow?.activeWorkflow && document.querySelector('canvas')"
TRANSLATED_HELP = re.compile(r"/docs/\w+/\w+\.md$")  # asked for first; without one the page takes <node id>.md
OURS = "/extensions/flux-krea/"  # ComfyUI's own page complains too, of a missing user.css and of having no network


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("FLUX_KREA_BROWSER"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        # One context, so that ComfyUI's page comes from the browser's cache from the second test on.
        yield browser.new_context(viewport={"width": 1720, "height": 980})
        browser.close()


@pytest.fixture(params=["canvas", "vue"])
def renderer(request):
    return request.param


@pytest.fixture
def page(chromium, comfyui, renderer):
    """ComfyUI's page, ready; the console must stay free of errors and deprecation notices of ours."""
    comfyui.post("/settings", {"Comfy.VueNodes.Enabled": renderer == "vue"}).raise_for_status()
    page = chromium.new_page()
    page.goto(comfyui.url + "/system_stats")  # of the same origin, and without a script that could write again
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    problems = []
    ready = []

    def listen(said) -> None:
        if said.type == "error" or (said.type == "warning" and is_ours_to_mend(said, bool(ready))):
            problems.append((said.text, said.location["url"]))

    page.on("domcontentloaded", lambda _: ready.clear())  # a test that loads it anew
    page.on("console", listen)
    page.on("pageerror", lambda error: problems.append((error.message, error.stack or "")))
    page.goto(comfyui.url)
    page.wait_for_function(READY, timeout=60_000)
    page.wait_for_timeout(1000)
    ready.append(True)
    yield page
    page.close()
    assert not [problem for problem in problems if is_ours(*problem) and not TRANSLATED_HELP.search(problem[1])]


def is_ours_to_mend(said, is_ready: bool) -> bool:
    """A deprecation notice names the module or the field and not who used it. ComfyUI's page, while it starts, gives some
    about itself; later on there is nobody but us, and a module under /scripts/ is never imported by itself."""
    return is_deprecation(said.text) and (is_ready or "/scripts/" in said.location["url"])


def is_deprecation(text: str) -> bool:
    return "deprecat" in text.lower()


def is_ours(text: str, place: str) -> bool:
    return OURS in text + place or is_deprecation(text)
