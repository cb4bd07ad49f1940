"""A long answer that was paid: in a file from some megabytes on, and kept there where nobody can read it."""

from __future__ import annotations

import json
import mmap
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..providers.contract import Answer
from .records import private_folder

IN_MEMORY = 4 * 2**20  # bytes
HEAD = 64 * 2**10  # bytes of a long answer that stay in memory

Hide = Callable[["bytes | mmap.mmap"], "bytes | mmap.mmap"]


@dataclass(frozen=True)
class LongAnswer(Answer):
    """`body` is its beginning; the whole lies at `path`."""

    path: Path = Path()

    def json(self) -> Any:
        """Read as text, which is let go as soon as it is parsed: twice the answer at most is held."""
        try:
            return json.loads(self.path.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            return None


class Incoming:
    """The body of an answer while it arrives. Without a `folder`, or without room there, all of it is in memory."""

    def __init__(self, folder: Path | None, provider_id: str):
        self.size = 0
        self._memory = bytearray()
        self._folder = folder
        self._path = folder / f"answer-{provider_id}-{uuid.uuid4().hex[:12]}.json" if folder else None
        self._file: Any = None

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._memory += piece
        if self._folder and (self._file or self.size > IN_MEMORY):
            self._write()

    def end(self, status: int, headers: dict[str, str], hide: Hide) -> Answer:
        """The answer, with what `hide` takes out of it gone, on the disk too."""
        if not self._file:
            return Answer(status, headers, bytes(hide(bytes(self._memory))))
        self._file.seek(0)
        head = bytes(hide(self._file.read(HEAD)))
        content = self._clean_file(hide)
        if content is not None:
            return Answer(status, headers, content)
        assert self._path
        return LongAnswer(status, headers, head, self._path)

    def keep(self, hide: Hide) -> Path | None:
        """Where the file lies that has what came; None where nothing came, or it cannot be written."""
        if self._folder and self.size and not self._file:
            self._write()
        if self._file and not self._file.closed:
            self._clean_file(hide)
        return self._path if self._file else None

    def _clean_file(self, hide: Hide) -> bytes | None:
        """Closes it with nothing in it that `hide` finds. What it should have is returned where it has no room for it."""
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            hidden = hide(whole)
            changed = None if hidden is whole else bytes(hidden)
        if changed is not None:
            try:
                self._file.seek(0)
                self._file.truncate()
                view = memoryview(changed)
                while view:
                    view = view[self._file.write(view) :]
            except OSError:
                self.discard()
                return changed
        self._file.close()
        return None

    def discard(self) -> None:
        if self._file:
            self._file.close()
            remove(self._path)
            self._file = None

    def _write(self) -> None:
        assert self._folder and self._path
        try:
            if not self._file:
                private_folder(self._folder)
                self._file = open(self._path, "xb+", buffering=0)  # noqa: SIM115  # closed by whoever ends it
            while self._memory:
                written = self._file.write(self._memory)
                del self._memory[:written]
        except OSError:
            self._back_to_memory()

    def _back_to_memory(self) -> None:
        """The disk has no room for it. What it took of it is read again."""
        if self._file:
            self._file.seek(0)
            self._memory[:0] = self._file.read()
            self.discard()
        self._folder = None


def remove(path: Path | None) -> None:
    if path:
        with suppress(OSError):
            path.unlink()
