"""docs/providers.md is made from the providers' own files; `FLUX_KREA_WRITE_DOCS=1` writes it anew."""

import os
import re
from pathlib import Path

from flux_krea.nodes.providers import providers

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PROVIDERS = ROOT / "docs" / "providers.md"
HEAD = """# What each provider makes of each input

Made from the files in `nodes/providers/`. No mark: taken as it is, perhaps under another name. ~ converted, + several pictures,
each paid for, — not known there. *With LoRA* is for providers where a LoRA needs another endpoint.
"""
MARKS = {"passthrough": "", "renamed": "", "converted": "~", "emulated": "+", "unsupported": "—"}


def addresses() -> str:
    """Where a key, a picture and a prompt travel, and which sizes are a provider's own."""
    rows = [
        "\n## Where each of them is\n",
        "| provider | key | its key is sent to | pictures come from, too | pictures in one paid call | sizes of its own |",
        "|---" * 6 + "|",
    ]
    for provider in providers().values():
        sizes = (f"{name} {width}×{height}" for name, (width, height) in provider.presets.items())
        cells = (
            f"[`{provider.key_variable}`]({provider.key_page})",
            ", ".join(provider.hosts),
            ", ".join(provider.picture_hosts) or "nowhere else",
            str(provider.max_images),
            ", ".join(sizes) or "none",
        )
        rows.append(f"| {provider.label} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, ""])


def tables() -> str:
    modes = dict.fromkeys(mode for provider in providers().values() for mode in provider.parameters)
    return "".join(table(mode) for mode in modes)


def table(mode: str) -> str:
    columns = {name: provider for name, provider in providers().items() if mode in provider.parameters}
    inputs = dict.fromkeys(name for provider in columns.values() for name in provider.parameters[mode])
    rows = [
        f"\n## {mode.replace('_', ' ').capitalize().replace('lora', 'LoRA')}\n",
        "| input | " + " | ".join(provider.label for provider in columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in inputs:
        cells = (cell(provider.parameters[mode].get(name)) for provider in columns.values())
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, ""])


def cell(parameter) -> str:
    if parameter is None or parameter.how == "unsupported":
        return MARKS["unsupported"] + (f" {parameter.note}" if parameter and parameter.note else "")
    limits = dict.fromkeys(f"{limit:g}" for limit in (parameter.minimum, parameter.maximum) if limit is not None)
    field = " ".join(filter(None, [MARKS[parameter.how], f"`{parameter.field}`" if parameter.field else ""]))
    choices = ", ".join(map(str, parameter.choices))
    default = "" if parameter.default is None else f"{parameter.default} where nothing is sent"
    parts = [field, " to ".join(limits), choices and f"one of {choices}", default, parameter.note]
    return "; ".join(filter(None, parts)).replace("|", "\\|")


def test_the_page_says_what_the_providers_files_say():
    wanted = HEAD + addresses() + tables()
    if os.environ.get("FLUX_KREA_WRITE_DOCS"):
        PROVIDERS.write_text(wanted, encoding="utf-8")
    assert PROVIDERS.read_text(encoding="utf-8") == wanted


def test_every_file_that_the_readme_points_at_is_there():
    text = README.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
