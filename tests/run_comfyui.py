"""`python dev.py comfyui -- ARGS`: ComfyUI with this pack, in the foreground; ARGS go to ComfyUI's main.py."""

import subprocess
import sys

import miniature
from comfyui import PYTHON, ROOT, ComfyUI

HAS_GPU = "import torch, sys; sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"

arguments = sys.argv[1:]
if "--cpu" not in arguments and subprocess.run([PYTHON, "-c", HAS_GPU]).returncode:
    arguments.append("--cpu")
base = ROOT / ".dev" / "comfyui"
if not any((base / "models" / "diffusion_models").glob("*")):
    miniature.write_set(base / "models")  # something to try the nodes with; put the real files beside them
port = int(arguments[arguments.index("--port") + 1]) if "--port" in arguments else 8188
server = ComfyUI(base, arguments=tuple(arguments), port=port)
server.prepare()
try:
    sys.exit(subprocess.run(server.command(), cwd=base).returncode)
except KeyboardInterrupt:
    pass
