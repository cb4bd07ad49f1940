"""One paid call, from the reservation to the picture on disk, in a thread of its own.

The thread outlives the node that asked: an answer that costs money is filed even when nobody waits for it any more.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from ..providers.contract import (
    Answer,
    BadAnswer,
    Call,
    Cancelled,
    ContentRefused,
    Delivery,
    GenerationFailed,
    Job,
    Picture,
    Plan,
    Progress,
    ProviderError,
    RequestRefused,
    Unavailable,
    UnknownOutcome,
    Unsupported,
)
from . import downloads, sentences
from .callers import Callers
from .client import Backoff, Client, Gone, NoAnswer, Stopped
from .job_record import (
    ACCEPTED,
    CANCEL_ASKED,
    CANCELLED,
    DELIVERED,
    DONE,
    FAILED,
    GONE_ONCE,
    RESERVED,
    SENDING,
    SPENT,
    UNKNOWN,
    JobRecord,
    uptime,
)
from .journal import Claim
from .limits import NOTHING, Limits
from .merging import Outcome
from .planning import PlannedCall
from .services import Services

T = TypeVar("T")
logger = logging.getLogger("flux_krea")

FINAL = (GenerationFailed, ContentRefused, RequestRefused)  # after these an accepted job has nothing left to give
LOOK_FOR_LOST = (0.5, 2.0, 4.0)  # seconds before each look: lists of jobs lag behind
WATCH_OTHERS = 0.3  # seconds between looks at a record that another process works on
TRY_DISK_AGAIN = 1.0  # seconds between two tries to write down what is paid
TELL_OF_DISK = 3.0  # seconds of such tries after which whoever waits is told


class WasCancelled(Exception):
    """The provider says that the job was cancelled, as a person had asked."""


class PaidCall:
    """`future` ends with an Outcome or a ProviderError."""

    def __init__(self, planned: PlannedCall, services: Services, limits: Limits = NOTHING):
        self.planned = planned
        self._limits = limits  # for what the provider says, before it is paid, that it costs more
        self.callers = Callers(self._on_deserted)
        self.future: Future[Outcome] = Future()
        self._services = services
        self._provider = planned.provider
        self._record = planned.record
        self._writing = threading.RLock()  # a cancelling thread writes too: never an older record after a newer one
        self._client: Client | None = None
        self._cancel_call: Call | None = None
        self._cancelling = threading.Lock()
        self._is_unwritten = False

    @property
    def is_at_risk(self) -> bool:
        """Ending the process now would lose what is paid: an answer is on its way, or cannot be written down."""
        return not self.future.done() and (self._record.state == SENDING or self._is_unwritten)

    @property
    def label(self) -> str:
        return self._provider.label

    def run(self, claim: Claim, claim_again: Callable[[], Claim]) -> None:
        """With what the journal's claim gave; `claim_again` is for what another process ended. Never raises."""
        try:
            with self._services.slots:
                outcome = self._outcome(claim, claim_again)
        except Exception as error:
            with self._writing:
                self._services.journal.release(self._record)
            self.fail(sentences.with_next_step(self._readable(error), self._record))
        else:
            self.callers.close()
            self.future.set_result(outcome)
        finally:
            if self._client:
                self._client.close()

    def fail(self, error: ProviderError) -> None:
        self.callers.close()
        self.future.set_exception(error)

    # ── from the claim to the pictures ───────────────────────────────────────────────────────────────────────────────

    def _outcome(self, claim: Claim, claim_again: Callable[[], Claim]) -> Outcome:
        record, is_mine = claim
        while True:
            if is_mine:
                try:
                    return self._complete(record)
                except WasCancelled:
                    if self.callers.deserted.is_set():
                        raise Cancelled("Cancelled; the provider stopped the job.", paid=True) from None
                    record, is_mine = claim_again()
            elif record.state == DONE:
                if pictures := downloads.on_disk(record, self._services.pictures):
                    return Outcome(record, downloads.delivery_of(record), pictures, was_paid_before=True)
                record, is_mine = self._services.journal.reopen(record)
            else:
                self._services.journal.say_wanted(record.id)
                self.callers.show(Progress("the same picture is under way already"))
                self._wait_while_called(WATCH_OTHERS)
                record, is_mine = claim_again()

    def _complete(self, record: JobRecord) -> Outcome:
        """From the state that the journal has it in to the pictures on disk. What is raised leaves the record in a state
        that says what the next run can do."""
        self._record = record
        was_paid_before = record.state != RESERVED
        began = time.monotonic()
        if self._record.state == SPENT:
            raise sentences.left_no_picture(record)
        if self._record.state in (SENDING, UNKNOWN):
            self._find_lost(sentences.asked_before(self.label, record))
        if self._record.state == RESERVED:
            self._submit()
        if self._record.state == ACCEPTED:
            self._follow()
        if self._record.state != DELIVERED:
            raise Unsupported("The job has failed or was cancelled meanwhile.")
        generated = time.monotonic()
        pictures = self._collect()
        seconds = {"generate": generated - began, "download": time.monotonic() - generated}
        delivery = downloads.delivery_of(self._record)
        return Outcome(self._record, delivery, pictures, was_paid_before, seconds)

    def _submit(self) -> None:
        """Reserved → accepted, or delivered at a provider that blocks."""
        if self.planned.plan is None:
            raise Unsupported("The request cannot be planned again from the journal alone. Submit it again.")
        try:
            end = self._play(self._provider.submit(self._plan(self.planned.plan)))
            if isinstance(end, Delivery):
                self._file(end)
            else:
                self._save(state=ACCEPTED, job=dict(end))
        except Exception as error:
            fault = self._readable(error)
            if self._record.state == SENDING and fault.paid is not False and not isinstance(fault, FINAL):
                self._save(state=UNKNOWN)
                return self._find_lost(fault)
            self._give_up(FAILED if fault.paid is False else SPENT, fault)
            raise fault from None

    def _plan(self, plan: Plan) -> Plan:
        """With this record's id, for a provider that takes an id of ours."""
        return replace(plan, order_id=self._record.id)

    def _follow(self) -> None:
        """Accepted → delivered. Free, and can be repeated."""
        if self._provider.follow is None or self._record.job is None:
            raise BadAnswer(f"The saved job of {self.label} cannot be read.", paid=True)
        try:
            delivery = self._play(self._provider.follow(self._record.job, self.planned.request))
            self._file(delivery)
        except FINAL as fault:
            was_asked = self._record.note == CANCEL_ASKED
            self._give_up(CANCELLED if was_asked else FAILED if fault.paid is False else SPENT, fault)
            if was_asked:
                raise WasCancelled from None
            raise

    def _file(self, delivery: Delivery) -> None:
        """Pictures that came as text go to disk before anything else: their only copy is in memory."""
        if not delivery.pictures:
            raise GenerationFailed(f"{self.label} finished without a picture.", paid=True)
        urls = self._insist(
            lambda: downloads.store_texts(delivery.pictures, self._record, self._services.pictures, self._connection())
        )
        flags = (*delivery.flags, *[None] * len(urls))[: len(urls)]
        notes = tuple(self._services.keys.redacted(note) for note in delivery.notes)
        kept = asdict(replace(delivery, pictures=urls, flags=flags, notes=notes))
        self._save(state=DELIVERED, delivery=kept, billed=delivery.cost_usd)

    def _collect(self) -> tuple[Picture, ...]:
        """Delivered → done."""
        self.callers.show(Progress("downloading"))
        try:
            pictures = self._download()
        except Gone as gone:
            self._ask_for_new_addresses(gone)
            pictures = self._download()
        names = [Path(picture.path).name for picture in pictures]
        size = sum(Path(picture.path).stat().st_size for picture in pictures)
        self._save(state=DONE, pictures=names, bytes=size, owner=None, note="")
        return pictures

    def _download(self) -> tuple[Picture, ...]:
        urls = downloads.delivery_of(self._record).pictures
        try:
            return downloads.fetch(urls, self._record, self._services.pictures, self._new_client)
        except OSError as error:
            raise sentences.no_room(error, self._record, str(self._services.pictures)) from None

    def _ask_for_new_addresses(self, gone: Gone) -> None:
        """Addresses expire; the job may name new ones. Gone twice, in two runs, is gone for good."""
        if self._record.note == GONE_ONCE:
            fault = GenerationFailed(f"{gone} The picture is no longer to be had from {self.label}.", paid=True)
            self._give_up(SPENT, fault)
            raise fault
        if self._record.job is None or self._provider.follow is None:
            self._save(note=GONE_ONCE)
            raise gone
        self._save(state=ACCEPTED, note=GONE_ONCE)
        self._follow()

    # ── a paid call whose answer was lost ────────────────────────────────────────────────────────────────────────────

    def _find_lost(self, fault: ProviderError) -> None:
        """Unknown → accepted, where the provider's own list holds the job. Else raises UnknownOutcome."""
        looked = f"{self.label} keeps no list of jobs to look in"
        if self._provider.find_lost and self._plan_to_look_for:
            self.callers.show(Progress("the answer was lost; looking for the job at the provider"))
            looked = f"The list of jobs at {self.label} cannot be read"
            for pause in LOOK_FOR_LOST:
                self._wait(min(pause, self._services.patience.between_polls))
                listed = self._listed_jobs()
                if listed is not None:
                    looked = "It is not in its list of jobs"
                for job in listed or ():
                    if self._adopt(job):
                        return
            if self._repeated():
                return
        elif self._provider.find_lost:
            looked = f"It cannot be told apart in the list of jobs at {self.label}"
        raise sentences.still_lost(fault, self._record, looked)

    @property
    def _plan_to_look_for(self) -> Plan | None:
        """Where a provider knows the order by our id, that is enough: a restart may have left no more of the plan."""
        return self.planned.plan or (Plan(self._record.endpoint, {}) if self._provider.repeatable_for else None)

    def _listed_jobs(self) -> tuple[Job, ...] | None:
        """None where the list cannot be had or read, which tells nothing."""
        assert self._provider.find_lost and self._plan_to_look_for
        age = self._record.most_seconds_since_sent
        try:
            return self._play(self._provider.find_lost(self._plan(self._plan_to_look_for), age))
        except Cancelled:
            raise
        except Exception as error:
            logger.warning("API Krea: %s's list of jobs: %s", self.label, self._services.keys.redacted(str(error)))
            return None

    def _repeated(self) -> bool:
        """Unknown → accepted, where the provider knows the paid call by our id: sent again it costs nothing, and its
        answer is the lost one. False where too much time has gone by, and where this answer is of no use either."""
        age = self._record.seconds_since_sent
        if age is None or age >= self._provider.repeatable_for or not self.planned.plan:
            return False
        self.callers.show(Progress("asking again with the same id, which costs nothing"))
        try:
            end = self._play(self._provider.submit(self._plan(self.planned.plan)))
        except Cancelled:
            self._save(state=UNKNOWN)
            raise
        except Exception as error:
            logger.warning("API Krea: %s, asked again: %s", self.label, self._services.keys.redacted(str(error)))
            self._save(state=UNKNOWN)
            return False
        if isinstance(end, Delivery):
            self._file(end)
        else:
            self._save(state=ACCEPTED, job=dict(end))
        return True

    def _adopt(self, job: Job) -> bool:
        record = replace(self._record, state=ACCEPTED, job=dict(job))
        if not self._services.journal.adopt(job, record):
            return False
        self._save(state=ACCEPTED, job=dict(job))
        return True

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _play(self, calls: Generator[Call, Answer, T]) -> T:
        """Sends each call that the provider's generator yields and hands it the answer, until it returns."""
        answer: Any = None
        while True:
            try:
                call = calls.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = self._answer_to(call)

    def _answer_to(self, call: Call) -> Answer:
        if call.cancel:
            self._cancel_call = call.cancel
            self._cancel_if_deserted()
        if call.progress:
            self._show(call.progress)
        self._wait(min(call.delay, self._services.patience.between_polls))
        if call.paid:
            return self._pay(call)
        is_accepted = self._record.state == ACCEPTED
        stop = self.callers.deserted if self._record.state in (RESERVED, UNKNOWN) else None
        try:
            # An accepted job is asked after by its provider's code, which has its own patience with what it hears.
            return self._connection().ask(call, stop, not is_accepted)
        except Stopped:
            raise Cancelled("Cancelled.", paid=False) from None
        except ProviderError as error:
            error.paid = {SENDING: None, ACCEPTED: True}.get(self._record.state, error.paid)
            raise

    def _pay(self, call: Call) -> Answer:
        """The one paid call. It is on disk as sent before the first byte leaves; it is sent again only where the provider
        certainly did not accept it."""
        before = self._record.state
        if before != RESERVED and not (before == UNKNOWN and self._provider.repeatable_for):
            text = f"{self.label} would have to be paid a second time for one job; it was not sent."
            raise BadAnswer(text, paid=None)  # what was sent before may have cost money
        client, patience = self._connection(), self._services.patience
        self._afford(call.usd)
        backoff, rate = Backoff(patience), 0.0 if self.planned.has_alternative else patience.rate
        while True:
            self._save(state=SENDING, **(self._when_sent() if self._record.sent is None else {}))
            fault, answer = None, None
            try:
                answer = client.pay(call)
            except NoAnswer as failure:
                if failure.was_sent:
                    raise self._lost(failure) from None
                fault = client.unavailable(call, failure)
            if answer and not client.was_declined(answer):
                return answer
            self._save(state=before, **({} if before == UNKNOWN else {"sent": None, "sent_uptime": None}))
            pause = backoff.next(
                rate if answer and answer.status == 429 else patience.fault, client.asked_pause(answer)
            )
            if pause is None:
                if answer:
                    return answer
                assert fault
                raise fault
            self._wait(pause)

    def _afford(self, usd: float | None) -> None:
        """Raises OverBudget for a price above what was set aside that no limit allows."""
        if usd is None or usd <= (self._record.reserved or 0.0):
            return
        with self._writing:
            try:
                self._services.journal.reserve(self._record, usd, self._limits)
            except (sqlite3.Error, OSError) as error:
                raise sentences.as_user_error(error) from None
            self._record = replace(self._record, reserved=usd)

    @staticmethod
    def _when_sent() -> dict[str, float]:
        return {"sent": time.time(), "sent_uptime": uptime()}

    def _lost(self, failure: NoAnswer) -> UnknownOutcome:
        return UnknownOutcome(
            f"{self.label} was asked for the picture and its answer was lost ({failure}). Look at your account there.",
            paid=None,
        )

    def _wait(self, seconds: float) -> None:
        """A call that was sent is seen through; before that, whoever leaves ends it."""
        if self._record.state in (RESERVED, UNKNOWN):
            self._wait_while_called(seconds)
        else:
            time.sleep(seconds)

    def _wait_while_called(self, seconds: float) -> None:
        if self.callers.deserted.wait(seconds) and self.callers.close_if_deserted():
            raise Cancelled("Cancelled.", paid=False)

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_deserted(self) -> None:
        if self._record.state == ACCEPTED and self._cancel_call:
            threading.Thread(target=self._cancel_if_deserted, name="krea-cancel", daemon=True).start()

    def _cancel_if_deserted(self) -> None:
        """Asks the provider to stop the job, once. Its yes is a wish, not an end: the job is followed on, and what it
        made all the same is fetched. A job that another process waits for goes on."""
        with self._cancelling:
            call, is_asked = self._cancel_call, self._record.note == CANCEL_ASKED
            is_over = self._record.owner is None
            if call is None or is_asked or is_over or not self.callers.deserted.is_set():
                return
            if self._services.journal.is_wanted(self._record.id) or not self.callers.close_if_deserted():
                return
            self._save(note=CANCEL_ASKED)
            client = self._new_client()
            try:
                client.ask(call)
            except ProviderError as error:
                text = self._services.keys.redacted(str(error))
                logger.warning("API Krea: %s could not be told to stop: %s", self.label, text)
            finally:
                client.close()

    # ── writing down ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _save(self, **values: Any) -> None:
        """Before anything is paid, what cannot be written down ends the call; afterwards it is tried until it works."""
        with self._writing:
            if self._record.owner is None:  # it is over
                return
            record = replace(self._record, **values)
            if record.state in (RESERVED, SENDING) and self._record.state in (RESERVED, SENDING):
                try:
                    self._services.journal.save(record)
                except (sqlite3.Error, OSError) as error:
                    raise Unavailable(f"The journal cannot be written ({error}); without it nothing is paid.") from None
                self._record = record
                return
            self._record = record
            if record.state == FAILED:
                self._services.journal.save_when_possible(record)
            else:
                self._insist(lambda: self._services.journal.save(record))

    def _insist(self, write: Callable[[], T]) -> T:
        """Tries until there is room on the disk. Whoever waits is told after a while; the next to ask waits on."""
        began = time.monotonic()
        while True:
            try:
                result = write()
                self._is_unwritten = False
                return result
            except (sqlite3.Error, OSError) as error:
                self._is_unwritten = True
                folder = self._services.pictures if isinstance(error, OSError) else self._services.journal.folder
                fault = sentences.no_room(error, self._record, str(folder))
                self.callers.show(Progress(f"{fault}"))
                if time.monotonic() - began >= TELL_OF_DISK:
                    self._tell(fault)
            time.sleep(TRY_DISK_AGAIN)

    def _tell(self, fault: ProviderError) -> None:
        """Ends the waiting of those who wait now, and not the call."""
        self.callers.send_away()
        told, self.future = self.future, Future()
        told.set_exception(fault)

    def _give_up(self, state: str, error: ProviderError) -> None:
        cost = 0.0 if state == FAILED or error.paid is False else self._record.reserved
        note = self._services.keys.redacted(str(error))
        self._save(state=state, reserved=cost, owner=None, note=note)

    def _readable(self, error: Exception) -> ProviderError:
        """The error without a secret, and without an answer's text where nobody foresaw it."""
        if isinstance(error, (sqlite3.Error, OSError)) and self._record.state == RESERVED:
            error = sentences.as_user_error(error)
        if not isinstance(error, ProviderError):
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = Path(place.filename).name
            logger.error(
                "API Krea: %s in %s, line %s, for %s", type(error).__name__, name, place.lineno, self._record.id
            )
            error = sentences.unforeseen(error, self._record, self.label)
        error.args = (self._services.keys.redacted(str(error)),)
        return error

    def _show(self, progress: Progress) -> None:
        clean = self._services.keys.redacted
        self.callers.show(replace(progress, text=clean(progress.text), logs=tuple(map(clean, progress.logs))))

    def _connection(self) -> Client:
        self._client = self._client or self._new_client()
        return self._client

    def _new_client(self) -> Client:
        return self._services.client(self.planned.provider_id, self._provider)
