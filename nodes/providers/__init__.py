"""What each provider speaks: pure values and functions, no I/O of any kind.

`contract.py` has the types. A module with a `PROVIDER` is one provider, and its file name is its id in workflows.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from .contract import Provider


@cache
def providers() -> dict[str, Provider]:
    """Every provider in this folder, by id. A new file is a new provider."""
    modules = {module.name: import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)}
    return {name: modules[name].PROVIDER for name in sorted(modules) if hasattr(modules[name], "PROVIDER")}
