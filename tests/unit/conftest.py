"""Lets the unit tests import what stands beside them, such as fake_provider.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
