"""A deadline for a whole exchange, in any phase of it: another thread hangs up when it has passed.

A time limit on each read is no deadline: headers that trickle, interim answers without end and extensions of chunks
give each read a byte in time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

BOTH_WAYS = 2  # socket.SHUT_RDWR


class Deadline:
    """Of one client's exchanges, one at a time. `has_passed` is of the one under way, or of the last."""

    def __init__(self) -> None:
        self.has_passed = False
        self._lock = threading.Lock()
        self._exchange: object = None
        self._lines: list[tuple[Any, Any]] = []  # connection, and a second handle on its socket

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        exchange = object()
        with self._lock:
            self._exchange = exchange
            self.has_passed = False
        timer = threading.Timer(seconds, self._hang_up, [exchange])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._let_go(only_closed=True)

    def watch(self, connection: Any, line: Any) -> None:
        """`line` is the socket of a connection that was just made. TLS and proxies are put around it later, so what is
        kept is a second handle on it."""
        with self._lock:
            self._lines.append((connection, line.dup()))
            is_late, exchange = self.has_passed, self._exchange
        if is_late:
            self._hang_up(exchange)

    def close(self) -> None:
        self._let_go(only_closed=False)

    def _hang_up(self, exchange: object) -> None:
        with self._lock:
            if exchange is self._exchange:
                self.has_passed = True
                for _, line in self._lines:
                    with suppress(OSError):
                        line.shutdown(BOTH_WAYS)

    def _let_go(self, only_closed: bool) -> None:
        """A connection ends only when the second handle is closed too."""
        with self._lock:
            kept = [
                (connection, line) for connection, line in self._lines if only_closed and connection.sock is not None
            ]
            for connection, line in self._lines:
                if (connection, line) not in kept:
                    line.close()
            self._lines = kept
