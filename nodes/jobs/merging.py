"""What the paid calls of one request left, as one result or one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..providers.contract import (
    Change,
    ContentRefused,
    Delivery,
    GenerationFailed,
    GenerationResult,
    Picture,
    ProviderError,
    Unavailable,
)
from .job_record import JobRecord
from .planning import PlannedCall, total


@dataclass(frozen=True)
class Outcome:
    """What a paid call left. `was_paid_before`: by an earlier run, this one had it for nothing."""

    record: JobRecord
    delivery: Delivery
    pictures: tuple[Picture, ...]
    was_paid_before: bool
    seconds: Mapping[str, float] = field(default_factory=dict)


def merge_results(
    ends: Sequence[Outcome | BaseException], calls: Sequence[PlannedCall]
) -> GenerationResult | ProviderError:
    """What the calls left. Those that will never leave a picture do not keep back what the others have."""
    errors = [end for end in ends if isinstance(end, BaseException)]
    if len(errors) < len(ends) and all(map(is_final, errors)):
        return joint_result(ends, calls)
    return joint_error(errors, len(ends))


def is_final(error: BaseException) -> bool:
    """True where repeating cannot help: content refused, or failed and perhaps paid."""
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


def joint_result(ends: Sequence[Outcome | BaseException], calls: Sequence[PlannedCall]) -> GenerationResult:
    pairs = list(zip(calls, ends, strict=True))
    made = [(call, end) for call, end in pairs if isinstance(end, Outcome)]
    empty = [(call, end) for call, end in pairs if isinstance(end, ProviderError)]
    outcomes = [outcome for _, outcome in made]
    paid_now = [(call, outcome.delivery.cost_usd) for call, outcome in made if not outcome.was_paid_before]
    paid_now += [(call, None) for call, error in empty if error.paid]
    billed = [cost for _, cost in paid_now]
    notes = [note for outcome in outcomes for note in outcome.delivery.notes] + [str(error) for _, error in empty]
    withheld = [outcome.delivery.withheld for outcome in outcomes]
    withheld += [call.request.images for call, error in empty if isinstance(error, ContentRefused)]
    changes = calls[0].plan.changes if calls[0].plan else ()
    if len(calls) > 1:
        asked = sum(call.request.images for call in calls)
        changes += (Change("images", asked, f"{len(calls)} calls", "more than one call makes; the seeds count on"),)
    first_call, first = made[0]
    return GenerationResult(
        provider=first_call.provider_id,
        pictures=tuple(picture for outcome in outcomes for picture in outcome.pictures),
        flags=tuple(flag for outcome in outcomes for flag in outcome.delivery.flags),
        seed=first_call.request.seed if first.delivery.seed is None else first.delivery.seed,
        estimate=total(call.estimate for call, _ in paid_now),
        cost_usd=None if None in billed else sum(cost for cost in billed if cost is not None),
        request_ids=tuple(filter(None, (outcome.delivery.request_id for outcome in outcomes))),
        changes=changes,
        notes=tuple(dict.fromkeys(notes)),
        withheld=sum(withheld),
        reused=sum(len(outcome.pictures) for outcome in outcomes if outcome.was_paid_before),
        seconds={
            step: max(outcome.seconds.get(step, 0.0) for outcome in outcomes) for step in ("generate", "download")
        },
        mode=first_call.request.mode,
    )
