"""A small file beside the pictures of each paid job: what the journal says of it, should the journal be lost."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from .job_record import JobRecord, record_of

NAME = re.compile(r"[0-9a-f]{32}\.json")


class Records:
    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def write(self, record: JobRecord) -> None:
        """Complete on the disk when it returns. Raises OSError."""
        private_folder(self.folder)
        handle, unfinished = tempfile.mkstemp(dir=self.folder, prefix=".record-")  # created with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(record.as_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._path(record.id))
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def read(self, record_id: str) -> JobRecord | None:
        """None where there is none, or where nobody can read it."""
        try:
            return record_of(self._path(record_id).read_text("utf-8"))
        except (OSError, ValueError, TypeError):
            return None

    def ids(self) -> set[str]:
        try:
            return {name.removesuffix(".json") for name in os.listdir(self.folder) if NAME.fullmatch(name)}
        except FileNotFoundError:
            return set()

    def remove(self, record_id: str) -> None:
        with suppress(OSError):
            self._path(record_id).unlink()

    def _path(self, record_id: str) -> Path:
        return self.folder / f"{record_id}.json"


def private_folder(folder: Path) -> None:
    """Makes the folder where there is none; nobody else on the machine may read in it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(OSError):
        if os.name != "nt" and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
