"""What a paid call is given to work with and to order, and what it leaves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..providers.contract import Delivery, Estimate, GenerationRequest, Picture, Plan, Provider
from .client import Patience
from .journal import Journal, Row
from .keys import Keys
from .pace import Pace


@dataclass(frozen=True)
class Desk:
    """What every part works with."""

    journal: Journal
    keys: Keys
    pictures: Path
    patience: Patience
    slots: threading.Semaphore
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class Order:
    """One paid call as it was planned."""

    provider_id: str
    provider: Provider
    request: GenerationRequest
    plan: Plan
    estimate: Estimate
    row: Row


@dataclass(frozen=True)
class Outcome:
    """What a part leaves. `was_paid_before`: by an earlier run, this one had it for nothing."""

    row: Row
    delivery: Delivery
    pictures: tuple[Picture, ...]
    was_paid_before: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
