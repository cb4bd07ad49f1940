"""Generations on the pack's own threads: started at once, shared where they are the same, and outliving who asked.

jobs = Jobs(private_folder, pictures_folder)
handle = jobs.start("fal", request, max_cost_usd=0.10, purse=graph, on_progress=show)
handle.future                  # a GenerationResult or a ProviderError; await asyncio.wrap_future(handle.future)
handle.cancel()                # frees the caller at once, and stops the remote job where it can be stopped
jobs.collect(handle.ticket)    # the same result, later, also after a restart
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ..providers import providers as all_providers
from ..providers.contract import (
    AUTO,
    BalanceTooLow,
    Estimate,
    GenerationRequest,
    GenerationResult,
    KeyRefused,
    OverBudget,
    Picture,
    Plan,
    Progress,
    Provider,
    ProviderError,
    RateLimited,
    RequestRefused,
    Unavailable,
    Unsupported,
)
from . import downloads, environment
from .client import Client, Patience
from .handle import Handle
from .journal import Journal, Row
from .keys import Keys
from .paid_call import Part
from .planned_call import Desk, Order
from .split import joined, split, total

THREADS = 32  # jobs that are sent or waited for at the same time
# `auto` never takes to another provider what one refused for its content.
ASK_ANOTHER = (KeyRefused, BalanceTooLow, RateLimited, RequestRefused, Unavailable)


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
        self._journal = Journal(private_folder)
        slots = threading.Semaphore(THREADS)
        self._desk = Desk(self._journal, self.keys, Path(pictures_folder), patience or Patience.of_operator(), slots)
        self._lock = threading.RLock()
        self._live: dict[str, Part] = {}  # payload hash → the part that works on it
        self._handles: dict[str, Handle] = {}  # ticket → its first handle, while it runs
        # The newest run that draws seeds, and the wishes its nodes have taken on.
        self._drawing: tuple[str, set[str]] = ("", set())

    def start(
        self,
        provider_id: str,
        request: GenerationRequest,
        *,
        max_cost_usd: float | None = None,
        purse: str = "",
        reuse: bool = True,
        drawn_by: str = "",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Handle:
        """Plans at once and raises what can be known before anything is sent; the rest runs in threads.

        `reuse` takes an identical generation that is under way, waits to be collected, or is done, instead of paying.
        Off, it is always a new job.

        `max_cost_usd` (and FLUX_KREA_MAX_COST_USD) limits all that is paid with the same `purse`, over all nodes,
        processes and restarts: the sum over its different payloads, each counted once. A node gives the graph as purse
        (and the run's id where it draws seeds itself). Without a purse the limit is for this call alone.

        `drawn_by` is the run that drew the request's seed at random. With `reuse`, what an earlier run paid for with
        the same wish, and no graph has got, comes first, with its own seed.
        """
        limit = _limit(max_cost_usd)
        wish = _wish(provider_id, request) if drawn_by else ""
        if wish and reuse:
            request = replace(request, seed=self._seed_of_uncollected(wish, drawn_by, otherwise=request.seed))
        names = self.choose(request) if provider_id == AUTO else [provider_id]
        choices = [self._orders(name, request, purse, wish) for name in names]
        handle = Handle("|".join(_ticket(orders) for orders in choices), on_progress)
        with self._lock:
            self._handles[handle.ticket] = handle
        handle.future.add_done_callback(lambda future: self._handles.pop(handle.ticket, None))
        threading.Thread(
            target=self._conduct, args=(handle, choices, limit, reuse), name="krea-run", daemon=True
        ).start()
        return handle

    def collect(self, ticket: str, on_progress: Callable[[Progress], None] | None = None) -> Handle:
        """What an earlier `start` paid for; pays nothing. Cancelling only stops the waiting, not the job."""
        handle = Handle(ticket, on_progress)
        with self._lock:
            running = self._handles.get(ticket)
        if running:
            running.future.add_done_callback(lambda future: handle.finish(future.exception() or future.result()))
        else:
            threading.Thread(target=self._fetch, args=(handle,), name="krea-run", daemon=True).start()
        return handle

    def estimate(self, provider_id: str, request: GenerationRequest) -> Estimate:
        """What a run costs where nothing can be reused."""
        provider = self._provider(provider_id)
        return total(provider.estimate(part) for part in split(request, provider.max_images))

    def choose(self, request: GenerationRequest) -> list[str]:
        """The providers with a key that can do what is asked, cheapest first."""
        prices, reasons = {}, []
        for name, provider in self._providers.items():
            if not self.keys.get(name):
                continue
            try:
                for part in split(request, provider.max_images):
                    provider.plan(part)
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

    def pending(self) -> list[Row]:
        """Paid, or perhaps paid, and not collected, oldest first. Those with an owner are under way."""
        return self._journal.pending()

    def set_collected(self, ticket: str) -> None:
        """A graph has got these pictures and ended well: they wait no more."""
        choices = [choice.split("/") for choice in ticket.split("|")]
        with suppress(sqlite3.Error, OSError):  # they go on waiting, then
            self._journal.set_collected(row for _, *rows in choices for row in rows)

    def put_aside(self, row_id: str) -> bool:
        """A person does not want it; nothing is deleted. False while the job is under way."""
        return self._journal.put_aside(row_id)

    def picture(self, row_id: str, index: int) -> Picture | None:
        """One picture of a finished job."""
        row = self._journal.row(row_id)
        pictures = downloads.on_disk(row, self._desk.pictures) if row else None
        return pictures[index] if pictures and 0 <= index < len(pictures) else None

    def test_key(self, provider_id: str) -> None:
        """Asks the provider, for nothing, whether it takes the key. Blocks; raises ProviderError when it does not."""
        provider = self._provider(provider_id)
        client = self._client(provider_id)
        if provider.check is None:
            raise Unsupported(f"{provider.label} has no call that tests a key without paying.")
        try:
            status = client.answer_to(provider.check).status
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

    # One handle's own thread

    def _conduct(self, handle: Handle, choices: list[list[Order]], limit: float | None, reuse: bool) -> None:
        try:
            for orders in self._known_first(choices) if reuse else choices:
                result = self._run(handle, orders, limit, reuse)
                if isinstance(result, GenerationResult) or not _may_ask_another(result):
                    break
            handle.finish(result)
        except Exception as error:
            handle.finish(_told(error))

    def _known_first(self, choices: list[list[Order]]) -> list[list[Order]]:
        """`auto` goes back to the provider that an earlier run ended up with: there it is paid already."""
        if len(choices) == 1:
            return choices
        return sorted(choices, key=lambda orders: not any(self._journal.newest(order.row.hash) for order in orders))

    def _run(
        self, handle: Handle, orders: list[Order], limit: float | None, reuse: bool
    ) -> GenerationResult | ProviderError:
        parts, new = [], []
        with self._lock:
            for index, order in enumerate(orders):
                part = self._live.get(order.row.hash) if reuse else None
                if part is None or not handle.hold(part, index, len(orders)):
                    part = Part(order, self._desk)
                    handle.hold(part, index, len(orders))
                    self._announce(order.row.hash, part)
                    new.append(part)
                parts.append(part)
        if new:
            self._begin(new, limit, reuse)
        return self._joined(parts, orders)

    def _begin(self, parts: list[Part], limit: float | None, reuse: bool) -> None:
        try:
            claims = self._journal.claim([part.order.row for part in parts], limit, reuse)
        except Exception as error:
            for part in parts:
                part.fail(_told(error))
            return
        for part, (row, is_mine) in zip(parts, claims, strict=True):
            part.begin(row, is_mine, limit)

    def _announce(self, payload_hash: str, part: Part) -> None:
        self._live[payload_hash] = part

        def forget(future: Future) -> None:
            with self._lock:
                if self._live.get(payload_hash) is part:
                    del self._live[payload_hash]

        part.future.add_done_callback(forget)

    def _joined(self, parts: list[Part], orders: list[Order]) -> GenerationResult | ProviderError:
        wait([part.future for part in parts])
        return joined([part.future.exception() or part.future.result() for part in parts], orders)

    def _fetch(self, handle: Handle) -> None:
        """A ticket lists the providers that could have been asked; the last one that knows the job has it."""
        try:
            for choice in reversed(handle.ticket.split("|")):
                name, *rows = choice.split("/")
                orders = [self._order_of(name, row) for row in rows]
                if orders and all(orders):
                    handle.finish(self._resume(handle, orders))
                    return
                if any(orders):
                    missing = len(orders) - len(list(filter(None, orders)))
                    raise Unsupported(f"{missing} of {len(orders)} parts failed or were never sent. Submit again.")
            raise Unsupported("The journal knows no job with this ticket: it failed, was cancelled or was never sent.")
        except Exception as error:
            handle.finish(_told(error))

    def _order_of(self, name: str, hash_or_id: str) -> Order | None:
        row = self._journal.newest(hash_or_id)
        provider = self._providers.get(name)
        if row is None or provider is None:
            return None
        known = {field.name for field in fields(GenerationRequest)}
        request = GenerationRequest(**{name: value for name, value in row.request.items() if name in known})
        return Order(name, provider, request, Plan(row.endpoint, {}), Estimate(row.reserved), row)

    def _resume(self, handle: Handle, orders: list[Order]) -> GenerationResult | ProviderError:
        parts = []
        for index, order in enumerate(orders):
            with self._lock:
                part = self._live.get(order.row.hash)
                if part is None or not handle.hold(part, index, len(orders)):
                    part = Part(order, self._desk)
                    part.join(lambda progress: None)  # a second holder, who never leaves: see `collect`
                    handle.hold(part, index, len(orders))
                    self._announce(order.row.hash, part)
                    taken = self._journal.take(order.row.id)
                    if taken is None:
                        part.fail(Unsupported("The job has failed or was cancelled meanwhile."))
                    else:
                        part.begin(*taken, limit=0.0)
            parts.append(part)
        return self._joined(parts, orders)

    # Planning

    def _seed_of_uncollected(self, wish: str, run: str, otherwise: int) -> int:
        """Each job is for one node of a run: two nodes that draw their seeds want two pictures."""
        with self._lock:
            if run != self._drawing[0]:
                self._drawing = (run, set())
            taken = self._drawing[1]
            try:
                waiting = [row.wish for row in self._journal.pending_of(wish) if row.wish not in taken]
            except (sqlite3.Error, OSError) as error:
                raise _told(error) from None
            chosen = waiting[0] if waiting else f"{wish}{otherwise}"
            taken.add(chosen)
        return int(chosen.removeprefix(wish))

    def _orders(self, name: str, request: GenerationRequest, purse: str, wish: str) -> list[Order]:
        provider = self._provider(name)
        if not self.keys.get(name):
            raise KeyRefused(
                f"There is no key for {provider.label}. Set it on the settings page or as {provider.key_variable}; "
                f"you get one at {provider.key_page}. Nothing was paid."
            )
        wish = wish and f"{wish}{request.seed}"
        return [self._order(name, provider, part, purse, wish) for part in split(request, provider.max_images)]

    def _order(self, name: str, provider: Provider, request: GenerationRequest, purse: str, wish: str) -> Order:
        plan = provider.plan(request)
        estimate = provider.estimate(request)
        row = Row(name, plan.endpoint, _payload_hash(name, plan), _described(request), purse, estimate.usd, wish=wish)
        return Order(name, provider, request, plan, estimate, row)

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            raise Unsupported(f"There is no provider {name!r}; there are {', '.join(self._providers)}.")
        return self._providers[name]

    def _client(self, name: str) -> Client:
        return Client(name, self._providers[name], self.keys.get(name), patience=self._desk.patience)


def _described(request: GenerationRequest) -> dict[str, Any]:
    """All but the image."""
    return {**asdict(replace(request, image=None, extra={})), "extra": dict(request.extra)}


def _payload_hash(name: str, plan: Plan) -> str:
    return _hash(plan.image, name, plan.endpoint, plan.payload)


def _wish(provider_id: str, request: GenerationRequest) -> str:
    """What is asked but for the seed, which is written behind it."""
    return _hash(request.image, provider_id, _described(replace(request, seed=0))) + "/"


def _hash(image: bytes | None, *values: Any) -> str:
    seen = hashlib.sha256(image).hexdigest() if image is not None else None
    return hashlib.sha256(json.dumps([*values, seen], sort_keys=True, default=dict).encode()).hexdigest()[:40]


def _ticket(orders: Sequence[Order]) -> str:
    return "/".join([orders[0].provider_id, *(order.row.hash for order in orders)])


def _limit(max_cost_usd: float | None) -> float | None:
    if max_cost_usd is not None and not max_cost_usd >= 0:  # also NaN
        raise OverBudget(f"max_cost_usd is {max_cost_usd}, not an amount in US dollars.")
    limits = [limit for limit in (max_cost_usd, environment.max_cost_usd()) if limit is not None]
    return min(limits, default=None)


def _told(error: Exception) -> ProviderError:
    """Whoever waits for a handle must hear of everything."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, (sqlite3.Error, OSError)):
        return Unavailable(f"The journal cannot be used ({error}); without it nothing is paid.")
    return Unavailable(f"API Krea failed ({type(error).__name__}). What was paid is in its journal.", paid=None)


def _may_ask_another(error: ProviderError) -> bool:
    return error.paid is False and isinstance(error, ASK_ANOTHER)
