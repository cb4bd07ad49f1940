"""Tells live processes from dead ones by an OS file lock, which even kill -9 releases.

Better than a pid (reused) and than a heartbeat (late): the next process knows at once.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .records import private_folder

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[Any], wait: bool) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[Any], wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process at a time."""
    with open(path, "a") as file:
        _lock(file, wait=True)
        yield


class Owner:
    """This process, as others see it: `id` is written beside what it works on."""

    def __init__(self, folder: Path):
        self._folder = folder / "running"
        private_folder(self._folder)
        self.id = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._file = open(self._path(self.id), "w")  # noqa: SIM115  held until the process ends
        _lock(self._file, wait=False)
        if hasattr(os, "register_at_fork"):  # a forked worker would hold the lock on after this process has ended
            os.register_at_fork(after_in_child=self._file.close)

    def is_alive(self, owner: str) -> bool:
        if owner == self.id:
            return True
        path = self._path(owner)
        try:
            with open(path, "r+") as file:
                _lock(file, wait=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        with suppress(OSError):
            path.unlink()
        return False

    def say_wanted(self, job: str) -> None:
        """Others see that this process waits for a job of theirs, until it ends."""
        with suppress(OSError):
            (self._folder / f"{job}.{self.id}.wanted").touch()

    def is_wanted_by_others(self, job: str) -> bool:
        """Whether a living process waits for the job. Forgets what dead ones wanted."""
        for path in self._folder.glob(f"{job}.*.wanted"):
            owner = path.name.split(".")[1]
            if owner == self.id:
                continue
            if self.is_alive(owner):
                return True
            with suppress(OSError):
                path.unlink()
        return False

    def close(self) -> None:
        self._file.close()
        with suppress(OSError):
            self._path(self.id).unlink()

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"
