"""Remote FLUX.1 Krea [dev]: standard library and requests; never torch, comfy or a node.

`_contract.py` has the types, `_client.py` the only code that touches the network, `_journal.py` what was submitted and
what came back. Every other file is one provider: a module with a `PROVIDER`, whose file name is its id in workflows.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ._contract import Provider


@cache
def providers() -> dict[str, Provider]:
    """Every provider in this folder, by id. A new file is a new provider."""
    names = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    return {name: import_module(f"{__name__}.{name}").PROVIDER for name in names}
