"""The page in a real Chromium, once with the canvas renderer and once with the Vue renderer."""

import os

import pytest
from playwright.sync_api import sync_playwright

READY = "() => window.app && window.app.graph && window.app.extensionManager && document.querySelector('canvas')"
NOISE = ("Content Security Policy", "user.css", "404", "reading 'id'")  # ComfyUI's own, on a server without network


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("FLUX_KREA_BROWSER"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture(params=["canvas", "vue"])
def renderer(request):
    return request.param


@pytest.fixture
def page(chromium, comfyui, renderer):
    """ComfyUI's page, ready, with an empty graph; `page.problems` collects errors that are ours."""
    comfyui.post("/settings", {"Comfy.VueNodes.Enabled": renderer == "vue"}).raise_for_status()
    page = chromium.new_page(viewport={"width": 1720, "height": 980})
    page.problems = []
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(comfyui.url)
    page.wait_for_function(READY, timeout=60_000)
    page.wait_for_timeout(1000)
    yield page
    page.close()
    ours = [problem for problem in page.problems if not any(noise in problem for noise in NOISE)]
    assert not ours
