"""Links between folders, on every system."""

import sys
from pathlib import Path


def link_folder(link: Path, target: Path) -> None:
    """A link that needs no privilege: a symbolic link, on Windows a junction."""
    if link.exists():
        return
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)
