"""One request in as many paid calls as its images need, and what they leave as one result or one error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..providers.contract import (
    Change,
    ContentRefused,
    Estimate,
    GenerationFailed,
    GenerationRequest,
    GenerationResult,
    ProviderError,
    Unavailable,
)
from .planned_call import Order, Outcome


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


def joined(ends: Sequence[Outcome | BaseException], orders: Sequence[Order]) -> GenerationResult | ProviderError:
    """What the calls left. Those that will never leave a picture do not keep back what the others have."""
    errors = [end for end in ends if isinstance(end, BaseException)]
    if len(errors) < len(ends) and all(map(is_for_ever, errors)):
        return joint_result(ends, orders)
    return joint_error(errors, len(ends))


def is_for_ever(error: BaseException) -> bool:
    """Where nothing was paid a failed job is worth another run; refused content is refused again."""
    return isinstance(error, ContentRefused) or (isinstance(error, GenerationFailed) and error.paid is not False)


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


def joint_result(ends: Sequence[Outcome | BaseException], orders: Sequence[Order]) -> GenerationResult:
    pairs = list(zip(orders, ends, strict=True))
    made = [(order, end) for order, end in pairs if isinstance(end, Outcome)]
    empty = [(order, end) for order, end in pairs if isinstance(end, ProviderError)]
    outcomes = [outcome for _, outcome in made]
    paid_now = [(order, outcome.delivery.cost_usd) for order, outcome in made if not outcome.was_paid_before]
    paid_now += [(order, None) for order, error in empty if error.paid]
    billed = [cost for _, cost in paid_now]
    notes = [note for outcome in outcomes for note in outcome.delivery.notes] + [str(error) for _, error in empty]
    withheld = [outcome.delivery.withheld for outcome in outcomes]
    withheld += [order.request.images for order, error in empty if isinstance(error, ContentRefused)]
    changes = orders[0].plan.changes
    if len(orders) > 1:
        asked = sum(order.request.images for order in orders)
        changes += (Change("images", asked, f"{len(orders)} calls", "more than one call makes; the seeds count on"),)
    first_order, first = made[0]
    return GenerationResult(
        provider=first_order.provider_id,
        pictures=tuple(picture for outcome in outcomes for picture in outcome.pictures),
        flags=tuple(flag for outcome in outcomes for flag in outcome.delivery.flags),
        seed=first_order.request.seed if first.delivery.seed is None else first.delivery.seed,
        estimate=total(order.estimate for order, _ in paid_now),
        cost_usd=None if None in billed else sum(cost for cost in billed if cost is not None),
        request_ids=tuple(filter(None, (outcome.delivery.request_id for outcome in outcomes))),
        changes=changes,
        notes=tuple(dict.fromkeys(notes)),
        withheld=sum(withheld),
        reused=sum(len(outcome.pictures) for outcome in outcomes if outcome.was_paid_before),
        seconds={
            step: max(outcome.seconds.get(step, 0.0) for outcome in outcomes) for step in ("generate", "download")
        },
    )
