"""The pack's import in ComfyUI's own list of import times, beside the slowest of core's extra nodes."""

import re

from comfyui import ROOT, ComfyUI


def run(arguments):
    base = ROOT / ".dev" / "bench"
    server = ComfyUI(base, arguments=("--cpu",))
    server.log_path.unlink(missing_ok=True)
    with server:
        lines = re.findall(r"([\d.]+) seconds(?: \(IMPORT FAILED\))?: .*flux-krea", server.log())
    seconds = max(map(float, lines))
    yield {
        "bench": "import",
        "ours": seconds,
        "reference": 0.05,
        "ratio": seconds / 0.05,
        "unit": "s, as ComfyUI prints it (one decimal); the reference is our budget",
        "n": 1,
        "device": "cpu",
    }
