"""One caller's view of a generation: its progress, its end, and the way to let go of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace

from ..providers.contract import Cancelled, GenerationResult, Progress, ProviderError
from .paid_call import Part


class Handle:
    """`ticket` names it for `Jobs.collect`."""

    def __init__(self, ticket: str, on_progress: Callable[[Progress], None] | None = None):
        self.ticket = ticket
        self.future: Future[GenerationResult] = Future()
        self.progress = Progress("waiting")
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._held: list[tuple[Part, Callable[[Progress], None]]] = []

    def done(self) -> bool:
        return self.future.done()

    def result(self, timeout: float | None = None) -> GenerationResult:
        return self.future.result(timeout)

    def cancel(self) -> None:
        self._end(lambda: self.future.set_exception(Cancelled("Cancelled.")))

    def finish(self, result: GenerationResult | ProviderError) -> None:
        failed = isinstance(result, ProviderError)
        self._end(lambda: self.future.set_exception(result) if failed else self.future.set_result(result))

    def hold(self, part: Part, index: int, count: int) -> bool:
        """False when the part cannot be joined any more. A handle that was cancelled meanwhile lets go again."""

        def listen(progress: Progress) -> None:
            self._show(progress, f"{index + 1} of {count}: " if count > 1 else "")

        if not part.join(listen):
            return False
        with self._lock:
            if not self.future.done():
                self._held.append((part, listen))
                return True
        part.leave(listen)
        return True

    def _end(self, settle: Callable[[], None]) -> None:
        with self._lock:
            with suppress(InvalidStateError):
                settle()
            held, self._held = self._held, []
        for part, listener in held:
            part.leave(listener)

    def _show(self, progress: Progress, prefix: str) -> None:
        if self.done():
            return
        self.progress = replace(progress, text=prefix + progress.text)
        if self._on_progress:
            # What a page cannot show must not end a job that is paid.
            with suppress(Exception):
                self._on_progress(self.progress)
