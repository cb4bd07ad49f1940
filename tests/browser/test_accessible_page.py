"""Our own parts of the page, without a mouse and in either theme: the settings for keys and the list of paid jobs."""

import pytest
from page_driver import RUN, api_flow, load, screen

LEAST_CONTRAST = 4.5  # WCAG 2, level AA
CONTROLS = "(part) => document.querySelectorAll(`${part} :is(a, button, input, select, summary):not(:disabled)`).length"
FOCUSED = """(part) => {
  const element = document.activeElement;
  if (!element.closest(part)) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  return {
    name: element.getAttribute("aria-label") || element.innerText.trim(),
    outline: outlineStyle == "none" ? 0 : parseFloat(outlineWidth),
  };
}"""
# A disabled button may be pale, as everywhere.
FAINT = """([part, least]) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
  };
  const over = ([r, g, b, alpha], below) => [r, g, b].map((part, i) => part * alpha + below[i] * (1 - alpha));
  const behind = (element) => {
    if (!element) return [1, 1, 1];
    const own = parsed(getComputedStyle(element).backgroundColor);
    return own[3] == 1 ? own : over(own, behind(element.parentElement));
  };
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const contrast = (element, pseudo) => {
    const ground = behind(element);
    const ink = over(parsed(getComputedStyle(element, pseudo).color), ground);
    const [dark, light] = [luminance(ground), luminance(ink)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const saysSomething = (node) => node.nodeType == Node.TEXT_NODE && node.data.trim();
  const texts = [...document.querySelectorAll(`${part} *`)].filter((element) => !element.disabled);
  const measured = [
    ...texts.filter((e) => [...e.childNodes].some(saysSomething)).map((e) => [e.textContent, contrast(e)]),
    ...texts.filter((e) => e.placeholder).map((e) => [e.placeholder, contrast(e, "::placeholder")]),
  ];
  if (!measured.length) return ["nothing was found"];
  return measured.filter(([, ratio]) => !(ratio >= least));
}"""


@pytest.fixture
def palette(page, renderer):
    """Dark with one renderer, light with the other: neither depends on the other."""
    chosen = {"canvas": "dark", "vue": "light"}[renderer]
    switch = "(palette) => app.extensionManager.setting.set('Comfy.ColorPalette', palette)"
    page.evaluate(switch, chosen)
    yield chosen
    page.evaluate(switch, "dark")


def test_all_can_be_read_and_reached_with_tab_alone(page, standins, palette):
    standins["fal"].set(job_seconds=60)
    load(page, api_flow("FluxKreaSubmit", provider="fal", prompt=f"a fox in the {palette}"))
    page.wait_for_timeout(300)  # a theme fades in
    assert page.evaluate(FAINT, [".flux-krea-card", LEAST_CONTRAST]) == []
    assert page.evaluate(RUN) == "execution_success: "
    page.evaluate("() => app.extensionManager.sidebarTab.toggleSidebarTab('flux_krea.waiting')")
    page.locator(".flux-krea-waiting article", has_text=f"a fox in the {palette}").wait_for()
    look_at(page, ".flux-krea-waiting", palette)

    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.get_by_role("dialog").get_by_text("FLUX Krea", exact=True).first.click()
    page.locator(".flux-krea-keys").get_by_text("Set by FAL_KEY").wait_for()
    look_at(page, ".flux-krea-keys", palette)


def look_at(page, part: str, palette: str) -> None:
    page.wait_for_timeout(300)  # a theme fades in
    page.screenshot(path=screen(f"{part.strip('.')}-{palette}.png"))
    assert page.evaluate(FAINT, [part, LEAST_CONTRAST]) == []
    walked = list(walk(page, part))
    assert len(walked) == page.evaluate(CONTROLS, part)
    for control in walked:
        assert control["name"] and control["outline"] >= 2, control


def walk(page, part: str):
    """Every control from the first on, until Tab leads out of this part."""
    page.locator(f"{part} :is(a, button, input)").first.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")  # an outline is for the keyboard: focus() alone may show none
    while control := page.evaluate(FOCUSED, part):
        yield control
        page.keyboard.press("Tab")
