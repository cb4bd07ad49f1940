"""What every paid call works with."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from ..providers.contract import Provider
from .client import Client, Patience
from .journal import Journal
from .keys import Keys


@dataclass(frozen=True)
class Services:
    journal: Journal
    keys: Keys
    pictures: Path
    patience: Patience
    slots: threading.Semaphore  # paid calls that may be under way at the same time

    def client(self, provider_id: str, provider: Provider) -> Client:
        """A client of its own for one job and one thread."""
        return Client(
            provider_id, provider, self.keys.get(provider_id), self.patience, self.keys.without_keys, self.pictures
        )
