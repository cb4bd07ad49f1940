"""Who waits for one paid call: they are shown its progress, and it learns when the last one has left."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..providers.contract import Progress

Listener = Callable[[Progress], None]


class Callers:
    """`deserted` is set while nobody waits any more. `when_deserted` is called then, in the thread of the last to leave."""

    def __init__(self, when_deserted: Callable[[], None]):
        self.deserted = threading.Event()
        self._when_deserted = when_deserted
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def join(self, listener: Listener) -> bool:
        """One more waits. False when it is too late: the call is being stopped, or over."""
        with self._lock:
            if not self._is_closed:
                self._listeners.append(listener)
                self.deserted.clear()
            return not self._is_closed

    def leave(self, listener: Listener) -> None:
        """Never blocks. Somebody who was sent away has left already."""
        with self._lock:
            if listener not in self._listeners:
                return
            self._listeners.remove(listener)
            if self._listeners or self._is_closed:
                return
            self.deserted.set()
        self._when_deserted()

    def close(self) -> None:
        """Nobody joins any more."""
        with self._lock:
            self._is_closed = True

    def close_if_deserted(self) -> bool:
        """False where somebody joined since."""
        with self._lock:
            self._is_closed = self._is_closed or self.deserted.is_set()
            return self.deserted.is_set()

    def send_away(self) -> None:
        """They have been told something else; the call goes on for whoever comes next."""
        with self._lock:
            self._listeners.clear()

    def show(self, progress: Progress) -> None:
        for listener in tuple(self._listeners):
            listener(progress)
