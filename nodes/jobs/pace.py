"""When to ask again: a job takes about as long as the last one like it, so a few close looks come then.

One poll a second alone would be half a second late on average, and longer for the slowest of several jobs.
"""

from __future__ import annotations

import time
from collections.abc import Hashable

CLOSE_LOOKS = 6
CLOSEST = 0.05  # seconds between two polls


class Pace:
    """What is known about kinds of jobs: seconds after acceptance at which the last one was not done yet, and was."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[float, float]] = {}

    def watch(self, kind: Hashable) -> Watch:
        return Watch(self._known, kind)


class Watch:
    """One job, from its acceptance on."""

    def __init__(self, known: dict[Hashable, tuple[float, float]], kind: Hashable):
        self._known, self._kind = known, kind
        self._began = time.monotonic()
        self._undone, self._asked = 0.0, 0.0  # when it was seen unfinished, and asked for the last time

    def pause(self, usual: float) -> float:
        """Seconds until the next poll: the usual ones, or fewer where the job should end meanwhile."""
        now, pause = time.monotonic() - self._began, usual
        if self._kind in self._known:
            undone, done = self._known[self._kind]
            close = max(CLOSEST, (done - undone) / CLOSE_LOOKS)
            if now < done + close:
                pause = min(usual, max(undone + close - now, close))
        self._undone, self._asked = self._asked, now + pause
        return pause

    def ended(self) -> None:
        self._known[self._kind] = (self._undone, time.monotonic() - self._began)
