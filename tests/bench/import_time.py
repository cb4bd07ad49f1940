"""The pack's import in ComfyUI's own list of import times. The second start counts: the first one compiles the files."""

import re

from comfyui import ROOT, ComfyUI

BUDGET = 0.05  # seconds


def run(arguments):
    server = ComfyUI(ROOT / ".dev" / "bench", arguments=("--cpu",), environment={"PYTHONDONTWRITEBYTECODE": ""})
    for _ in range(2):
        server.log_path.unlink(missing_ok=True)
        with server:
            (seconds,) = re.findall(r"([\d.]+) seconds(?: \(IMPORT FAILED\))?: .*flux-krea", server.log())
    yield {
        "bench": "import",
        "ours": float(seconds),
        "reference": BUDGET,
        "ratio": float(seconds) / BUDGET,
        "unit": "s as ComfyUI prints it, with one decimal; the reference is our budget",
        "n": 1,
        "device": "cpu",
    }
