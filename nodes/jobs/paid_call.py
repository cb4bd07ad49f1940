"""One paid call, from the reservation to the picture on disk, in a thread of its own.

The thread outlives the node that asked: an answer that costs money is filed even when nobody waits for it any more.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..providers.answers import is_about_content
from ..providers.contract import (
    Accepted,
    Answer,
    BadAnswer,
    Call,
    Cancelled,
    ContentRefused,
    Delivery,
    Exchange,
    GenerationFailed,
    Picture,
    Progress,
    ProviderError,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
)
from . import downloads
from .client import Client, Gone
from .journal import ACCEPTED, CANCELLED, DELIVERED, DONE, FAILED, RESERVED, SENDING, SPENT, UNKNOWN, Row
from .planned_call import Desk, Order, Outcome

logger = logging.getLogger("flux_krea")

FINAL = (GenerationFailed, ContentRefused, RequestRefused)  # after these an accepted job has nothing left to give
LOOK_FOR_LOST = (0.5, 2.0, 4.0)  # seconds before each look: lists of jobs lag behind
WATCH_OTHERS = 0.3  # seconds between looks at a row that another process works on
ORDER_AGAIN = "To order it again all the same, and perhaps pay twice, change the seed or switch reuse off."
RUN_AGAIN = "Run again with the same settings to collect it: nothing is paid twice."


class Part:
    """`future` ends with an Outcome or a ProviderError."""

    def __init__(self, order: Order, desk: Desk):
        self.order = order
        self.future: Future[Outcome] = Future()
        self.listeners: list[Callable[[Progress], None]] = []
        self._desk = desk
        self._provider = order.provider
        self._request = order.request
        self._row = order.row
        self._client: Client | None = None
        self._holders = 0
        self._limit: float | None = None
        self._lock = threading.Lock()  # of holders and ending
        self._row_lock = threading.RLock()  # the cancelling thread writes too
        self._stopped = threading.Event()
        self._has_ended = False
        self._cancelling = threading.Lock()
        self._cancel_call: Call | None = None
        self._cancel_was_tried = False

    # From the outside, any thread

    def join(self, listener: Callable[[Progress], None]) -> bool:
        """One more wants this picture. False when it is too late: being cancelled, or over."""
        with self._lock:
            if self._has_ended or self._cancel_was_tried or self.future.done():
                return False
            self._holders += 1
            self._stopped.clear()
            self.listeners.append(listener)
            return True

    def leave(self, listener: Callable[[Progress], None]) -> None:
        """The last one to leave stops the job, remotely too where the provider can. Never blocks."""
        with self._lock:
            self.listeners.remove(listener)
            self._holders -= 1
            if self._holders or self._has_ended or self.future.done():
                return
            self._stopped.set()
        if self._row.state == ACCEPTED and self._cancel_call:
            threading.Thread(target=self._cancel_remotely, name="krea-cancel", daemon=True).start()

    def begin(self, row: Row, is_mine: bool, limit: float | None) -> None:
        """With what the journal's claim gave."""
        self._limit = limit
        threading.Thread(target=self._run, args=(row, is_mine), name="krea-job", daemon=True).start()

    def fail(self, error: ProviderError) -> None:
        self.future.set_exception(error)

    # In the part's own thread

    def _run(self, row: Row, is_mine: bool) -> None:
        try:
            with self._desk.slots:
                outcome = self._outcome(row, is_mine)
        except Exception as error:
            self._let_go()
            self.future.set_exception(self._told(error))
        else:
            self.future.set_result(outcome)
            self._tidy()
        finally:
            if self._client:
                self._client.close()

    def _outcome(self, row: Row, is_mine: bool) -> Outcome:
        self._row = row
        while not is_mine:
            if row.state == DONE:
                if pictures := downloads.on_disk(row, self._desk.pictures):
                    return Outcome(row, downloads.delivery_of(row), pictures, was_paid_before=True)
                row, is_mine = self._desk.journal.reopen(row)
            else:
                self._show(Progress("the same picture is under way already"))
                self._pause_for_others()
                row, is_mine = self._desk.journal.claim([self.order.row], self._limit)[0]
        self._row = row
        was_paid_before = row.state != RESERVED
        began = time.monotonic()
        delivery = downloads.delivery_of(row) if row.state == DELIVERED else self._generate()
        generated = time.monotonic()
        pictures = self._collect(delivery)
        seconds = {"generate": generated - began, "download": time.monotonic() - generated}
        return Outcome(self._row, downloads.delivery_of(self._row), pictures, was_paid_before, seconds)

    def _generate(self) -> Delivery:
        """From wherever the row stands to the delivery. Raises ProviderError; the row says what a next run can do."""
        if self._row.state == SPENT:
            kind = ContentRefused if is_about_content(self._row.note) else GenerationFailed
            text = (
                f"Exactly this was sent on {self._date()} and left no picture: {self._row.note} Now nothing was sent."
            )
            raise kind(text, paid=None)
        if self._row.state == UNKNOWN:
            self._find_lost(self._asked_before())
        try:
            return self._drive(self._exchange())
        except Exception as error:
            fault = error if isinstance(error, ProviderError) else self._unforeseen(error)
        if self._row.state == SENDING and fault.paid is not False and not isinstance(fault, FINAL):
            self._save(state=UNKNOWN)
            self._find_lost(fault)
            try:
                return self._drive(self._exchange())
            except ProviderError as error:
                fault = error
        if self._row.state in (RESERVED, SENDING) or (self._row.state == ACCEPTED and isinstance(fault, FINAL)):
            self._give_up(FAILED if fault.paid is False else SPENT, fault)
        raise fault

    def _exchange(self) -> Exchange:
        job = self._row.job
        return self._provider.exchange(self._request) if job is None else self._provider.exchange(self._request, job)

    def _drive(self, exchange: Exchange) -> Delivery:
        advance, answer, watch = exchange.send, None, None
        while True:
            try:
                step = advance(answer)
            except StopIteration as end:
                if watch:
                    watch.ended()
                return self._file(end.value)
            if isinstance(step, Accepted):
                self._save(state=ACCEPTED, job=dict(step.job))
                watch = self._desk.pace.watch((self.order.provider_id, self._row.endpoint, self._request.steps))
                answer = None
            elif watch and step.delay and (answer is None or answer.ok):
                answer = self._answer(replace(step, delay=watch.pause(step.delay)))
            else:
                answer = self._answer(step)

    def _answer(self, call: Call) -> Answer:
        if call.cancel:
            self._cancel_call = call.cancel
        if call.progress:
            self._show(call.progress)
        self._pause(min(call.delay, self._desk.patience.between_polls))
        if call.paid and self._row.state != RESERVED:
            raise BadAnswer(f"{self._provider.label} would have to be paid a second time for one job; it was not sent.")
        try:
            # An accepted job is asked after by its exchange, which has its own patience with what it hears.
            return self._connection().answer_to(call, repeat_statuses=self._row.state != ACCEPTED)
        except ProviderError as error:
            if not call.paid:
                error.paid = {SENDING: None, ACCEPTED: True}.get(self._row.state, error.paid)
            raise

    def _file(self, delivery: Delivery) -> Delivery:
        """Pictures that came as text go to disk before anything else: their only copy is in memory."""
        if not delivery.pictures:
            raise GenerationFailed(f"{self._provider.label} finished without a picture.", paid=True)
        urls = downloads.store_texts(delivery.pictures, self._row, self._desk.pictures, self._connection())
        flags = (*delivery.flags, *[None] * len(urls))[: len(urls)]
        notes = tuple(self._desk.keys.redacted(note) for note in delivery.notes)
        delivery = replace(delivery, pictures=urls, flags=flags, notes=notes)
        self._save(state=DELIVERED, delivery=asdict(delivery), billed=delivery.cost_usd)
        return delivery

    def _collect(self, delivery: Delivery) -> tuple[Picture, ...]:
        self._show(Progress("downloading"))
        try:
            pictures = self._download(delivery)
        except Gone:
            if self._row.job is None:
                raise
            # Addresses expire. The job may name new ones.
            self._save(state=ACCEPTED)
            pictures = self._download(self._drive(self._exchange()))
        names = [Path(picture.path).name for picture in pictures]
        size = sum(Path(picture.path).stat().st_size for picture in pictures)
        self._save(state=DONE, pictures=names, bytes=size, owner=None)
        return pictures

    def _download(self, delivery: Delivery) -> tuple[Picture, ...]:
        return downloads.fetch(delivery.pictures, self._row, self._desk.pictures, self._new_client)

    def _find_lost(self, fault: ProviderError) -> None:
        """The provider's own list tells whether the lost call was accepted. Raises UnknownOutcome when it does not."""
        if self._provider.reconcile:
            self._show(Progress("the answer was lost; looking for the job at the provider"))
            for pause in LOOK_FOR_LOST:
                self._pause(min(pause, self._desk.patience.between_polls))
                job = self._listed_job()
                if job and not self._desk.journal.is_taken(job, self._row):
                    self._save(state=ACCEPTED, job=dict(job))
                    return
        looked = "It is not in its list of jobs" if self._provider.reconcile else "It keeps no list of jobs to look in"
        known = "it has to be paid and cannot be fetched" if fault.paid else "nobody knows whether it was paid"
        text = f"{fault} {looked}: {known}. Nothing is sent again by itself. {ORDER_AGAIN}"
        raise UnknownOutcome(text, paid=fault.paid)

    def _listed_job(self) -> Mapping[str, Any] | None:
        search = self._provider.reconcile(self._request, self._row.sent or self._row.created)
        advance, answer = search.send, None
        try:
            while True:
                answer = self._connection().answer_to(replace(advance(answer), paid=False))
        except StopIteration as end:
            return end.value
        except Cancelled:
            raise
        except Exception as error:
            # A list that cannot be had or read tells nothing: the outcome stays as unknown as it was.
            logger.warning("API Krea: %s's list of jobs: %s", self._provider.label, self._safe(error))
            return None

    def _asked_before(self) -> UnknownOutcome:
        return UnknownOutcome(
            f"Exactly this was sent to {self._provider.label} on {self._date()} and the answer was lost; now nothing was "
            "sent. Look at your account there.",
            paid=None,
        )

    def _date(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self._row.sent or self._row.created))

    # Stopping

    def _pause(self, seconds: float) -> None:
        """Waits. Ends the job here if it was stopped and can be."""
        if self._row.state == CANCELLED:
            raise Cancelled("Cancelled; the provider was told to stop.", paid=True)
        if self._can_stop():
            self._end_if_stopped()
            self._stopped.wait(seconds)
            self._end_if_stopped()
        else:
            time.sleep(seconds)

    def _pause_for_others(self) -> None:
        if self._stopped.wait(WATCH_OTHERS):
            self._end(None)

    def _can_stop(self) -> bool:
        """Before anything left, and while a job can be cancelled remotely; a blocking call is seen through."""
        if self._row.state == ACCEPTED:
            return self._cancel_call is not None and not self._cancel_was_tried
        return self._row.state in (RESERVED, UNKNOWN)

    def _end_if_stopped(self) -> None:
        if not self._stopped.is_set():
            return
        if self._row.state == ACCEPTED:
            self._cancel_remotely()
            if self._row.state == CANCELLED:
                raise Cancelled("Cancelled; the provider was told to stop.", paid=True)
        else:
            self._end(CANCELLED if self._row.state == RESERVED else None)

    def _end(self, state: str | None) -> None:
        """Unless somebody joined in this instant."""
        with self._lock:
            if not self._stopped.is_set():
                return
            self._has_ended = True
        if state:
            self._give_up(state, None)
        raise Cancelled("Cancelled.", paid=False)

    def _cancel_remotely(self) -> None:
        """Once. What the provider cannot stop any more goes on and is filed."""
        with self._cancelling:
            with self._lock:
                if self._cancel_was_tried or not self._stopped.is_set():
                    return
                self._cancel_was_tried = True
            client = self._new_client(time.sleep)
            try:
                stopped = client.answer_to(self._cancel_call).ok
            except ProviderError as error:
                stopped = False
                logger.warning("API Krea: %s could not be told to stop: %s", self._provider.label, self._safe(error))
            finally:
                client.close()
            with self._row_lock:
                if stopped and self._row.state == ACCEPTED:
                    self._save(state=CANCELLED, owner=None)

    # The journal, and words

    def _sending(self, is_leaving: bool) -> None:
        """On disk before the first byte leaves, and taken back as soon as it is certain that nothing was accepted."""
        self._save(state=SENDING if is_leaving else RESERVED, sent=time.time() if is_leaving else None)

    def _save(self, **values: Any) -> None:
        with self._row_lock:
            if self._row.state in (CANCELLED, DONE):
                return
            kept = {name: self._hidden(values[name]) for name in ("job", "delivery") if name in values}
            row = self._row = replace(self._row, **{**values, **kept})
            try:
                self._desk.journal.save(row)
            except (sqlite3.Error, OSError) as error:
                if row.state in (RESERVED, SENDING):
                    raise Unavailable(f"The journal cannot be written ({error}); without it nothing is paid.") from None
                logger.error("API Krea: the journal cannot be written (%s); only this run knows of a paid job.", error)

    def _give_up(self, state: str, error: ProviderError | None) -> None:
        cost = self._row.reserved if state == SPENT else 0.0
        self._save(state=state, reserved=cost, owner=None, note=self._safe(error) if error else "")

    def _let_go(self) -> None:
        """Somebody else may go on from here."""
        with self._lock:
            self._has_ended = True
        if self._row.owner is not None:
            with suppress(Exception):
                self._save(owner=None)

    def _unforeseen(self, error: Exception) -> ProviderError:
        paid = {RESERVED: False, SENDING: None, UNKNOWN: None}.get(self._row.state, True)
        place = traceback.extract_tb(error.__traceback__)[-1]  # not the error's text: it may quote an answer
        name = Path(place.filename).name
        logger.error("API Krea: %s in %s, line %s, for %s", type(error).__name__, name, place.lineno, self._row.id)
        return BadAnswer(f"{self._provider.label} answered something unforeseen ({type(error).__name__}).", paid=paid)

    def _told(self, error: Exception) -> ProviderError:
        """The error as the user sees it: no secret, whether money was spent, what to do next."""
        fault = error if isinstance(error, ProviderError) else self._unforeseen(error)
        text = self._safe(fault)
        if self._row.state == DELIVERED:
            fault.paid = True
        asks_again = self._row.state == ACCEPTED and isinstance(fault, UnknownOutcome) and "collect" not in text
        if self._row.state == SPENT or asks_again:
            text += f" It has to be paid all the same. {ORDER_AGAIN}" if fault.paid else f" {ORDER_AGAIN}"
        elif fault.paid is False and not isinstance(fault, Cancelled) and "paid" not in text:
            text += " Nothing was paid."
        elif self._row.state in (ACCEPTED, DELIVERED) and "collect" not in text:
            text += f" The job is paid and kept. {RUN_AGAIN}"
        elif fault.paid and "paid" not in text:
            text += " It has to be paid all the same."
        fault.args = (text,)
        return fault

    def _safe(self, error: Exception) -> str:
        return self._desk.keys.redacted(str(error))

    def _hidden(self, kept: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """A provider's own words may echo the key."""
        return json.loads(self._desk.keys.hidden(json.dumps(kept)))

    def _show(self, progress: Progress) -> None:
        progress = replace(
            progress,
            text=self._desk.keys.redacted(progress.text),
            logs=tuple(self._desk.keys.redacted(line) for line in progress.logs),
        )
        for listener in tuple(self.listeners):
            listener(progress)

    def _connection(self) -> Client:
        self._client = self._client or self._new_client()
        return self._client

    def _new_client(self, pause: Callable[[float], None] | None = None) -> Client:
        order = self.order
        key = self._desk.keys.get(order.provider_id)
        return Client(order.provider_id, self._provider, key, pause or self._pause, self._sending, self._desk.patience)

    def _tidy(self) -> None:
        with suppress(sqlite3.Error, OSError):
            for name in self._desk.journal.prune():
                (self._desk.pictures / name).unlink(missing_ok=True)
