"""The nodes. A file here is a node, a folder is a library the nodes stand on.

Data flows one way: node → `bridge/` → `jobs/` → `providers/`, node → `saving/`, and node or `bridge/` → `sampling/`, `safety/`,
`model_files/`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pkgutil import iter_modules


def node_classes() -> list[type]:
    """Every node in this folder: a module's `NODES` is its list of node classes. A new file is a new node."""
    names = sorted(module.name for module in iter_modules(__path__) if not module.ispkg)
    return [node for name in names for node in nodes_of(name)]


def nodes_of(name: str) -> list[type]:
    """The nodes of one file; one that cannot be imported is logged and does not take the others with it."""
    try:
        return import_module(f"{__name__}.{name}").NODES
    except Exception:
        logging.exception("FLUX Krea: the nodes in %s.py are missing, the others work", name)
        return []
