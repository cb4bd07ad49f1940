"""What may be paid: three limits, each in US dollars, of which the tightest holds.

The node's own counts what the API nodes of its run pay together. The server's two, for one run and for any 24 hours, are
its owner's word: in the environment, or in limits.json in the private folder, which only the settings page writes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..providers.contract import OverBudget, RequestRefused, money
from . import environment
from .records import private_folder

PER_RUN, PER_DAY, UNKNOWN_PRICE = "per_run", "per_24_hours", "unknown_price"
DEFAULTS = {PER_RUN: 1.0, PER_DAY: 5.0, UNKNOWN_PRICE: 0.1}  # US dollars; the last one a picture
VARIABLES = {
    PER_RUN: "FLUX_KREA_MAX_COST_USD",
    PER_DAY: "FLUX_KREA_MAX_COST_USD_24H",
    UNKNOWN_PRICE: "FLUX_KREA_UNKNOWN_PRICE_USD",
}
WHERE_TO_RAISE = "Raise it in ComfyUI's settings under FLUX Krea, or as {variable} in the server's environment"
CENT_DUST = 1e-9  # of adding floats


@dataclass(frozen=True)
class Limits:
    """For one claim; `node` is None where the node sets none."""

    node: float | None
    per_run: float
    per_day: float

    def check(self, asked: float, spent_by_run: float, spent_today: float) -> None:
        """Raises OverBudget when `asked` more dollars would pass a limit: which, what is left of it, where to raise it."""
        if self.node is not None:
            name, raise_it = "This node's max_cost_usd, for all API nodes of the run,", "Raise max_cost_usd on the node"
            _refuse_above(self.node, asked, spent_by_run, name, raise_it)
        for limit, spent, name, key in (
            (self.per_run, spent_by_run, "This server's limit for one run", PER_RUN),
            (self.per_day, spent_today, "This server's limit for 24 hours", PER_DAY),
        ):
            _refuse_above(limit, asked, spent, name, WHERE_TO_RAISE.format(variable=VARIABLES[key]))


NOTHING = Limits(0.0, 0.0, 0.0)


def _refuse_above(limit: float, asked: float, spent: float, name: str, raise_it: str) -> None:
    if spent + asked > limit + CENT_DUST:
        left = max(0.0, limit - spent)
        raise OverBudget(
            f"This would cost about {money(asked)}. {name} is {money(limit)}, of which {money(left)} is left. "
            f"Nothing was sent or paid. {raise_it}, or ask for less."
        )


class ServerLimits:
    """The owner's limits: environment first, then limits.json, then the defaults."""

    def __init__(self, folder: Path):
        self._path = Path(folder) / "limits.json"
        self._lock = threading.Lock()

    def with_node(self, max_cost_usd: float | None) -> Limits:
        if max_cost_usd is not None and not max_cost_usd >= 0:  # also NaN
            raise OverBudget(f"max_cost_usd is {max_cost_usd}, not an amount in US dollars.")
        return Limits(max_cost_usd, self.value(PER_RUN), self.value(PER_DAY))

    def value(self, name: str) -> float:
        """A value nobody can read refuses every run instead of allowing it."""
        text = environment.variable(VARIABLES[name])
        if text:
            return _amount(text, VARIABLES[name])
        stored = self._stored().get(name)
        return DEFAULTS[name] if stored is None else _amount(stored, f"{name} in {self._path.name}")

    def source(self, name: str) -> str:
        """Where a value comes from: environment, file or default."""
        if environment.variable(VARIABLES[name]):
            return "environment"
        return "file" if name in self._stored() else "default"

    def set(self, name: str, value: float | None) -> None:
        """None goes back to the default. Raises RequestRefused for what is no amount."""
        if name not in DEFAULTS:
            raise RequestRefused(f"There is no limit {name!r}; there are {', '.join(DEFAULTS)}.")
        if value is not None and not (type(value) in (int, float) and math.isfinite(value) and value >= 0):
            raise RequestRefused(f"{name} is {value!r:.40}, not an amount in US dollars such as 2.50.")
        with self._lock:
            kept = {key: amount for key, amount in self._stored().items() if key != name}
            write_private_json(self._path, kept if value is None else {**kept, name: value})

    def _stored(self) -> dict[str, object]:
        try:
            stored = json.loads(self._path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError):
            stored = None
        if not isinstance(stored, dict):
            raise OverBudget(
                f"{self._path.name} in the private folder cannot be read. Delete it, or set the limits again."
            )
        return stored


def write_private_json(path: Path, content: Mapping[str, object]) -> None:
    """Replaces the file in one step; nobody but its owner may read it."""
    private_folder(path.parent)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _amount(value: object, name: str) -> float:
    try:
        amount = float(value) if isinstance(value, (int, float, str)) and value is not True else math.nan
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise OverBudget(
            f"{name} is {str(value)[:40]!r}, not an amount in US dollars. Set it to a number such as 0.50."
        )
    return amount
