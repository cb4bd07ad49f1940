"""One caller's handle on a generation: progress, result, cancel. Several handles may share a paid call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace

from ..providers.contract import Cancelled, GenerationResult, Progress
from .callers import Listener
from .paid_call import PaidCall


class Handle:
    """`ticket` names it for `Jobs.collect`."""

    def __init__(self, ticket: str, on_progress: Callable[[Progress], None] | None = None):
        self.ticket = ticket
        self.future: Future[GenerationResult] = Future()
        self.progress = Progress("waiting")
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._joined: list[tuple[PaidCall, Listener]] = []

    def done(self) -> bool:
        return self.future.done()

    def result(self, timeout: float | None = None) -> GenerationResult:
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Frees the caller at once; the last caller of a paid call stops it, where the provider can."""
        self._end(lambda: self.future.set_exception(Cancelled("Cancelled.")))

    def finish(self, result: GenerationResult | BaseException) -> None:
        if isinstance(result, BaseException):
            self._end(lambda: self.future.set_exception(result))
        else:
            self._end(lambda: self.future.set_result(result))

    def join(self, call: PaidCall, index: int, count: int) -> bool:
        """False when the call cannot be joined any more. A handle that was cancelled meanwhile leaves again."""

        def listen(progress: Progress) -> None:
            self._show(progress, f"{index + 1} of {count}: " if count > 1 else "")

        if not call.callers.join(listen):
            return False
        with self._lock:
            if not self.future.done():
                self._joined.append((call, listen))
                return True
        call.callers.leave(listen)
        return True

    def _end(self, settle: Callable[[], None]) -> None:
        with self._lock:
            with suppress(InvalidStateError):
                settle()
            joined, self._joined = self._joined, []
        for call, listener in joined:
            call.callers.leave(listener)

    def _show(self, progress: Progress, prefix: str) -> None:
        if self.done():
            return
        self.progress = replace(progress, text=prefix + progress.text)
        if self._on_progress:
            # What a page cannot show must not end a job that is paid.
            with suppress(Exception):
                self._on_progress(self.progress)
