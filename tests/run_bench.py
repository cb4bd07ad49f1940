"""`python dev.py bench [NAME] [ARGS]`: each file in tests/bench/ is one benchmark; its rows are JSON objects, one a line.

Every time is measured beside its reference in the same run; only the ratio says something on a shared machine.
"""

import importlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "bench"
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "integration")]

names = sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))
wanted, arguments = (sys.argv[1:2] or names), sys.argv[2:]
if wanted[0] not in names:
    sys.exit(f"no benchmark is called {wanted[0]}; there are: {', '.join(names)}")
for name in wanted:
    for row in importlib.import_module(f"bench.{name}").run(arguments):
        print(json.dumps(row), flush=True)
