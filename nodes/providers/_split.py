"""One request in as many paid calls as its images need, and what they leave as one result or one error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ._contract import Change, Estimate, GenerationRequest, GenerationResult, ProviderError, Unavailable
from ._part import Order, Outcome


def split(request: GenerationRequest, most: int) -> list[GenerationRequest]:
    """As many requests as the images need, with consecutive seeds: no two of them can make the same picture."""
    return [
        replace(request, images=min(most, request.images - first), seed=request.seed + first)
        for first in range(0, request.images, most)
    ]


def total(estimates: Iterable[Estimate]) -> Estimate:
    estimates = list(estimates)
    prices = [estimate.usd for estimate in estimates]
    usd = None if None in prices else round(sum(price for price in prices if price is not None), 6)
    return Estimate(usd, next((estimate.note for estimate in estimates if estimate.note), ""))


def joint_error(errors: Sequence[BaseException], count: int) -> ProviderError:
    """The first error speaks; what is not its own fault is that others may have been paid."""
    first = errors[0]
    if not isinstance(first, ProviderError) or count == 1:
        return first if isinstance(first, ProviderError) else Unavailable(str(first))
    kept = count - len(errors)
    known = {error.paid for error in errors if isinstance(error, ProviderError)}
    paid = None if None in known else bool(kept or True in known)
    text = f"{len(errors)} of {count} parts failed. {first}"
    if kept:
        text += f" The other {kept} are kept: the next run takes them and pays only for what is missing."
    return type(first)(text, paid=paid, retry_after=first.retry_after)


def joint_result(outcomes: Sequence[Outcome], orders: Sequence[Order]) -> GenerationResult:
    first, plan = outcomes[0], orders[0].plan
    paid_now = [outcome for outcome in outcomes if not outcome.was_paid_before]
    billed = [outcome.delivery.cost_usd for outcome in paid_now]
    changes = plan.changes
    if len(orders) > 1:
        asked = sum(order.request.images for order in orders)
        changes += (Change("images", asked, f"{len(orders)} calls", "more than one call makes; the seeds count on"),)
    return GenerationResult(
        provider=orders[0].provider_id,
        pictures=tuple(picture for outcome in outcomes for picture in outcome.pictures),
        flags=tuple(flag for outcome in outcomes for flag in outcome.delivery.flags),
        seed=orders[0].request.seed if first.delivery.seed is None else first.delivery.seed,
        estimate=total(order.estimate for order, outcome in zip(orders, outcomes, strict=True) if outcome in paid_now),
        cost_usd=None if None in billed else sum(cost for cost in billed if cost is not None),
        request_ids=tuple(filter(None, (outcome.delivery.request_id for outcome in outcomes))),
        changes=changes,
        notes=tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.delivery.notes)),
        withheld=sum(outcome.delivery.withheld for outcome in outcomes),
        reused=sum(len(outcome.pictures) for outcome in outcomes if outcome.was_paid_before),
        seconds={
            step: max(outcome.seconds.get(step, 0.0) for outcome in outcomes) for step in ("generate", "download")
        },
    )
