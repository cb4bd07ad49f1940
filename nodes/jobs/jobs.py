"""Generations on the pack's own threads: started at once, shared where they are the same, and outliving who asked.

jobs = Jobs(private_folder, pictures_folder)
handle = jobs.start("fal", request, max_cost_usd=0.10, budget_key=run, on_progress=show)
handle.future                  # a GenerationResult or a ProviderError; await asyncio.wrap_future(handle.future)
handle.cancel()                # frees the caller at once, and stops the remote job where it can be stopped
jobs.collect(handle.ticket)    # the same result, later, also after a restart
"""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..providers import providers as all_providers
from ..providers.contract import (
    AUTO,
    BalanceTooLow,
    Estimate,
    GenerationRequest,
    GenerationResult,
    KeyRefused,
    Picture,
    Progress,
    Provider,
    ProviderError,
    RateLimited,
    RequestRefused,
    TooDear,
    Unavailable,
    Unsupported,
)
from . import downloads
from .client import Patience
from .handle import Handle
from .job_record import DONE, JobRecord
from .journal import Claim, Journal
from .keys import Keys
from .limits import PER_DAY, UNKNOWN_PRICE, Limits, ServerLimits
from .merging import merge_results
from .paid_call import PaidCall
from .planning import PlannedCall, estimate_of, plan_calls, planned_again, seedless_key_of, split_into_calls, total
from .records import Records
from .sentences import as_user_error
from .services import Services
from .ticket import Choice, Ticket

logger = logging.getLogger("flux_krea")

CALLS_AT_ONCE = 32  # sent or waited for
LOOK_FOR_ANSWERS = 0.2  # seconds between looks at what is still on its way when the process ends
# `auto` never takes to another provider what one refused for its content.
ASK_ANOTHER = (KeyRefused, BalanceTooLow, RateLimited, RequestRefused, TooDear, Unavailable)


class Jobs:
    def __init__(
        self,
        private_folder: Path,
        pictures_folder: Path,
        providers: Mapping[str, Provider] | None = None,
        patience: Patience | None = None,
    ):
        self._providers = all_providers() if providers is None else providers
        self.keys = Keys(private_folder, self._providers)
        self.limits = ServerLimits(private_folder)
        self._journal = Journal(private_folder, Records(pictures_folder))
        slots = threading.Semaphore(CALLS_AT_ONCE)
        self._services = Services(
            self._journal, self.keys, Path(pictures_folder), patience or Patience.of_operator(), slots
        )
        self._lock = threading.RLock()
        self._live: dict[str, PaidCall] = {}  # payload hash → the call that works on it
        self._working: set[PaidCall] = set()
        self._handles: dict[str, Handle] = {}  # ticket → its first handle, while it runs
        # The newest run that draws seeds, and the seedless keys that its nodes have taken on.
        self._drawing: tuple[str, set[str]] = ("", set())
        self._is_waited_for = False
        self._process = os.getpid()

    # ── for the nodes ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(
        self,
        provider_id: str,
        request: GenerationRequest,
        *,
        max_cost_usd: float | None = None,
        budget_key: str = "",
        reuse: bool = True,
        drawn_by: str = "",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Handle:
        """Plans at once and raises what can be known before anything is sent; the rest runs in threads.

        `reuse` takes an identical generation that is under way, waits to be collected, or is done, instead of paying.
        Off, it is always a new job.

        `max_cost_usd`, and the server's limit for one run, count all that is paid with the same `budget_key`: a run's
        id. Without one they are for this call alone. The server's limit for 24 hours counts everything.

        `drawn_by` is the run that drew the request's seed at random. With `reuse`, what an earlier run paid for with
        the same request, and no graph has received, comes first, with its own seed.
        """
        limits = self.limits.with_node(max_cost_usd)
        key = seedless_key_of(provider_id, request) if drawn_by else ""
        if key and reuse:
            request = replace(request, seed=self._seed_of_uncollected(key, drawn_by, otherwise=request.seed))
        choices = self._choices(provider_id, request, budget_key, key, reuse)
        handle = Handle(str(_ticket(choices)), on_progress)
        with self._lock:
            self._handles[handle.ticket] = handle
        handle.future.add_done_callback(lambda future: self._handles.pop(handle.ticket, None))
        _in_thread("krea-run", self._conduct, handle, choices, limits, reuse)
        return handle

    def collect(self, ticket: str, on_progress: Callable[[Progress], None] | None = None) -> Handle:
        """What an earlier `start` paid for; pays nothing. Cancelling only stops the waiting, not the job."""
        handle = Handle(ticket, on_progress)
        with self._lock:
            running = self._handles.get(ticket)
        if running:
            running.future.add_done_callback(lambda future: handle.finish(future.exception() or future.result()))
        else:
            _in_thread("krea-run", self._fetch, handle)
        return handle

    # ── for the page ─────────────────────────────────────────────────────────────────────────────────────────────────

    def estimate(self, provider_id: str, request: GenerationRequest) -> Estimate:
        """What a run costs where nothing can be reused."""
        provider = self._provider(provider_id)
        parts = split_into_calls(request, provider.max_images)
        return total(estimate_of(provider, part, provider.plan(part)) for part in parts)

    def spent_today(self) -> float:
        """US dollars paid or reserved in the last 24 hours."""
        return self._journal.spent()[1]

    def left_today(self) -> float:
        return max(0.0, self.limits.value(PER_DAY) - self.spent_today())

    def choose(self, request: GenerationRequest) -> list[str]:
        """The providers with a key that can do what is asked, cheapest first."""
        prices, reasons = {}, []
        for name, provider in self._providers.items():
            try:
                if self.keys.get(name) and request.mode not in provider.unlisted_modes:
                    usd = self.estimate(name, request).usd
                    prices[name] = float("inf") if usd is None else usd
            except ProviderError as error:
                reasons.append(f"{provider.label}: {self.keys.redacted(str(error))}")
        if not prices and reasons:
            raise Unsupported(f"No provider with a key can do this. {' '.join(reasons)}")
        if not prices:
            variables = ", ".join(provider.key_variable for provider in self._providers.values())
            raise KeyRefused(f"No provider has a key. Set one on the settings page, or as {variables}.")
        return sorted(prices, key=lambda name: prices[name])

    def dearest(self, request: GenerationRequest) -> float | None:
        """US dollars at the provider that asks most, with or without a key; None where no price is known.

        For those who may not know who has a key.
        """
        prices: list[float | None] = []
        refused = None
        for name, provider in self._providers.items():
            try:
                if request.mode not in provider.unlisted_modes:
                    prices.append(self.estimate(name, request).usd)
            except ProviderError as error:
                refused = error
        if refused and not prices:
            raise refused
        return max((usd for usd in prices if usd is not None), default=None)

    def pending(self) -> list[JobRecord]:
        """Paid, or perhaps paid, and not collected, oldest first. Those with an owner are under way."""
        return self._journal.pending()

    def set_collected(self, ticket: str) -> None:
        """A graph has received these pictures and ended well: they wait no more."""
        with suppress(sqlite3.Error, OSError):  # they go on waiting, then
            self._journal.set_collected(Ticket.parse(ticket).names)

    def dismiss(self, record_id: str) -> bool:
        """A person does not want it, or wants to order it again: nothing is deleted. False while it is under way."""
        return self._journal.dismiss(record_id)

    def picture(self, record_id: str, index: int) -> Picture | None:
        """One picture of a finished job."""
        record = self._journal.record(record_id)
        pictures = downloads.on_disk(record, self._services.pictures) if record else None
        return pictures[index] if pictures and 0 <= index < len(pictures) else None

    def test_key(self, provider_id: str) -> None:
        """Asks the provider, for nothing, whether it takes the key. Blocks; raises ProviderError when it does not."""
        provider = self._provider(provider_id)
        client = self._services.client(provider_id, provider)
        if provider.check is None:
            raise Unsupported(f"{provider.label} has no call that tests a key without paying.")
        try:
            status = client.ask(provider.check).status
        except ProviderError as error:
            raise type(error)(self.keys.redacted(str(error))) from None
        finally:
            client.close()
        if status in (401, 403):
            raise KeyRefused(f"{provider.label} does not take this key. Check it at {provider.key_page}.")
        if not 200 <= status < 300:
            raise Unavailable(f"{provider.label} answered {status}; whether the key is good is not known.")

    def close(self) -> None:
        self._journal.close()

    # ── one handle's own thread ──────────────────────────────────────────────────────────────────────────────────────

    def _conduct(self, handle: Handle, choices: list[list[PlannedCall]], limits: Limits, reuse: bool) -> None:
        """`auto` has several choices, and goes on to the next only where the one before certainly did not accept it."""
        result: GenerationResult | ProviderError = Unsupported("No provider was asked.")
        try:
            for calls in choices:
                result = self._run(handle, calls, limits, reuse)
                if isinstance(result, GenerationResult) or not _may_ask_another(result):
                    break
            handle.finish(result)
        except Exception as error:
            handle.finish(as_user_error(error))

    def _run(
        self, handle: Handle, calls: list[PlannedCall], limits: Limits, reuse: bool
    ) -> GenerationResult | ProviderError:
        joined, new = [], []
        with self._lock:
            for index, planned in enumerate(calls):
                call = self._live.get(planned.record.hash) if reuse else None
                if call is None or not handle.join(call, index, len(calls)):
                    call = PaidCall(planned, self._services, limits)
                    handle.join(call, index, len(calls))
                    self._live[planned.record.hash] = call
                    new.append(call)
                joined.append(call)
            futures = [call.future for call in joined]
        if new:
            self._begin(new, limits, reuse)
        wait(futures)
        return merge_results([future.exception() or future.result() for future in futures], calls)

    def _begin(self, calls: list[PaidCall], limits: Limits, reuse: bool) -> None:
        try:
            claims = self._journal.claim([call.planned.record for call in calls], limits, reuse)
        except Exception as error:
            for call in calls:
                self._forget(call)
                call.fail(as_user_error(error))
            return
        for call, claim in zip(calls, claims, strict=True):
            self._work(call, claim, partial(self._claim_again, call.planned.record, limits))

    def _claim_again(self, record: JobRecord, limits: Limits) -> Claim:
        return self._journal.claim([record], limits)[0]

    def _work(self, call: PaidCall, claim: Claim, claim_again: Callable[[], Claim]) -> None:
        def run() -> None:
            try:
                call.run(claim, claim_again)
            finally:
                self._forget(call)
                self._tidy()

        with self._lock:
            self._working.add(call)
            if not self._is_waited_for:
                self._is_waited_for = True
                atexit.register(self._wait_at_exit)
        _in_thread("krea-job", run)

    def _forget(self, call: PaidCall) -> None:
        with self._lock:
            self._working.discard(call)
            if self._live.get(call.planned.record.hash) is call:
                del self._live[call.planned.record.hash]

    def _wait_at_exit(self) -> None:
        """ComfyUI was stopped while an answer that costs money is on its way: it is waited for. Ctrl+C again ends that."""
        if os.getpid() != self._process:
            return  # a forked worker: the threads that wait are not in it
        said = False
        while at_risk := {call.label for call in tuple(self._working) if call.is_at_risk}:
            if not said:
                names = ", ".join(sorted(at_risk))
                logger.warning("API Krea: waiting for what is paid at %s. Ctrl+C again gives it up.", names)
            said = True
            time.sleep(LOOK_FOR_ANSWERS)

    def _tidy(self) -> None:
        with suppress(sqlite3.Error, OSError):
            for name in self._journal.prune():
                (self._services.pictures / name).unlink(missing_ok=True)

    # ── collecting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _fetch(self, handle: Handle) -> None:
        """A ticket lists the providers that could have been asked; the last one that knows the job has it."""
        try:
            for choice in reversed(Ticket.parse(handle.ticket).choices):
                calls = [self._planned_again(choice.provider_id, name) for name in choice.names]
                known = [call for call in calls if call]
                if known and len(known) == len(calls):
                    handle.finish(self._resume(handle, known))
                    return
                if known:
                    missing = len(calls) - len(known)
                    raise Unsupported(f"{missing} of {len(calls)} parts failed or were never sent. Submit again.")
            raise Unsupported("The journal knows no job with this ticket: it failed, was cancelled or was never sent.")
        except Exception as error:
            handle.finish(as_user_error(error))

    def _planned_again(self, provider_id: str, name: str) -> PlannedCall | None:
        record, provider = self._journal.newest(name), self._providers.get(provider_id)
        return planned_again(provider_id, provider, record) if record and provider else None

    def _resume(self, handle: Handle, calls: list[PlannedCall]) -> GenerationResult | ProviderError:
        futures = []
        for index, planned in enumerate(calls):
            with self._lock:
                call = self._live.get(planned.record.hash)
                if call is None or not handle.join(call, index, len(calls)):
                    call = PaidCall(planned, self._services)
                    call.callers.join(lambda progress: None)  # a second caller, who never leaves: see `collect`
                    handle.join(call, index, len(calls))
                    claim_again = partial(self._claim_existing, planned.record.id)
                    claim = claim_again()
                    self._live[planned.record.hash] = call
                    self._work(call, claim, claim_again)
                futures.append(call.future)
        wait(futures)
        return merge_results([future.exception() or future.result() for future in futures], calls)

    def _claim_existing(self, record_id: str) -> Claim:
        claim = self._journal.claim_existing(record_id)
        if claim is None:
            raise Unsupported("The job has failed or was cancelled meanwhile.")
        return claim

    # ── planning ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _choices(
        self, provider_id: str, request: GenerationRequest, budget_key: str, seedless_key: str, reuse: bool
    ) -> list[list[PlannedCall]]:
        """The calls at each provider that may be asked, in that order. `auto` goes back to where it is paid already."""
        unknown_price = self.limits.value(UNKNOWN_PRICE)

        def planned(name: str) -> list[PlannedCall]:
            return plan_calls(name, self._provider(name), request, unknown_price, budget_key, seedless_key)

        if provider_id != AUTO:
            calls = planned(provider_id)
            if not self._is_all_done(calls, reuse):
                self._require_key(provider_id)
            return [calls]
        if reuse and (paid := self._where_it_is_paid(planned)):
            return [paid]
        names = self.choose(request)
        choices = [planned(name) for name in names]
        for calls in choices[:-1]:
            calls[:] = [replace(call, has_alternative=True) for call in calls]
        return choices

    def _where_it_is_paid(self, planned: Callable[[str], list[PlannedCall]]) -> list[PlannedCall] | None:
        """Also at a provider whose key is gone since: elsewhere it would be paid a second time."""
        for name in self._providers:
            try:
                calls = planned(name)
            except ProviderError:
                continue
            if self._is_any_known(calls):
                if not self._is_all_done(calls, reuse=True):
                    self._require_key(name)
                return calls
        return None

    def _is_any_known(self, calls: Sequence[PlannedCall]) -> bool:
        """Also where nobody knows whether it was paid, until a person has put that aside."""
        try:
            records = [self._journal.newest(call.record.hash) for call in calls]
        except (sqlite3.Error, OSError) as error:
            raise as_user_error(error) from None
        return any(record and not record.is_put_aside for record in records)

    def _is_all_done(self, calls: Sequence[PlannedCall], reuse: bool) -> bool:
        """Pictures on the disk need no key."""
        if not reuse:
            return False
        try:
            records = [self._journal.newest(call.record.hash) for call in calls]
        except (sqlite3.Error, OSError):
            return False
        return all(record is not None and record.state == DONE for record in records)

    def _require_key(self, name: str) -> None:
        if not self.keys.get(name):
            provider = self._provider(name)
            raise KeyRefused(
                f"There is no key for {provider.label}. Set it on the settings page or as {provider.key_variable}; "
                f"you get one at {provider.key_page}. Nothing was paid."
            )

    def _seed_of_uncollected(self, seedless_key: str, run: str, otherwise: int) -> int:
        """Seed of a paid, uncollected job for the same request, else `otherwise`. Each job serves one node per run."""
        with self._lock:
            if run != self._drawing[0]:
                self._drawing = (run, set())
            taken = self._drawing[1]
            try:
                waiting = [record.seedless_key for record in self._journal.uncollected(seedless_key)]
            except (sqlite3.Error, OSError) as error:
                raise as_user_error(error) from None
            waiting = [key for key in waiting if key not in taken]
            chosen = waiting[0] if waiting else f"{seedless_key}{otherwise}"
            taken.add(chosen)
        return int(chosen.removeprefix(seedless_key))

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            raise Unsupported(f"There is no provider {name!r}; there are {', '.join(self._providers)}.")
        return self._providers[name]


def _ticket(choices: Sequence[Sequence[PlannedCall]]) -> Ticket:
    return Ticket(tuple(Choice(calls[0].provider_id, tuple(call.record.hash for call in calls)) for calls in choices))


def _in_thread(name: str, work: Callable[..., None], *arguments: object) -> None:
    """Daemons: a thread that waits for a provider must not keep ComfyUI from ending."""
    threading.Thread(target=work, args=arguments, name=name, daemon=True).start()


def _may_ask_another(error: ProviderError) -> bool:
    return error.paid is False and isinstance(error, ASK_ANOTHER)
