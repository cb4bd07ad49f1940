"""A request as the paid calls that it needs: their plans, prices and records. Nothing is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..providers.contract import TEXT_TO_IMAGE, Estimate, GenerationRequest, Lora, Plan, Provider, ProviderError
from .job_record import JobRecord


@dataclass(frozen=True)
class PlannedCall:
    """One paid call. `plan` is exactly what is hashed, journalled and sent; None where a restart left only the record."""

    provider_id: str
    provider: Provider
    request: GenerationRequest
    plan: Plan | None
    estimate: Estimate
    record: JobRecord
    has_alternative: bool = False  # with `auto`: another provider can be asked where this one does not accept the job


def plan_calls(
    provider_id: str,
    provider: Provider,
    request: GenerationRequest,
    unknown_price: float,
    budget_key: str = "",
    seedless_key: str = "",
) -> list[PlannedCall]:
    """As many calls as the images need. Raises ProviderError for what the provider cannot do.

    `unknown_price`: US dollars that a picture counts as where nobody knows its price.
    """
    key = seedless_key and f"{seedless_key}{request.seed}"
    return [
        _planned(provider_id, provider, part, unknown_price, budget_key, key)
        for part in split_into_calls(request, provider.max_images)
    ]


def _planned(
    provider_id: str,
    provider: Provider,
    request: GenerationRequest,
    unknown_price: float,
    budget_key: str,
    seedless_key: str,
) -> PlannedCall:
    plan = provider.plan(request)
    estimate = estimate_of(provider, request, plan)
    counted = estimate.usd if estimate.usd is not None else unknown_price * request.images
    record = JobRecord(
        provider_id,
        plan.endpoint,
        payload_hash(provider_id, plan),
        described(request),
        budget_key,
        counted,
        seedless_key=seedless_key,
    )
    return PlannedCall(provider_id, provider, request, plan, estimate, record)


def planned_again(provider_id: str, provider: Provider, record: JobRecord) -> PlannedCall:
    """From the journal alone. The plan is there only where it is, to the letter, the one that was sent."""
    known = {field.name for field in fields(GenerationRequest)}
    values = {name: value for name, value in record.request.items() if name in known}
    values["loras"] = tuple(Lora(*pair) for pair in values.get("loras", ()))
    request = GenerationRequest(**values)
    plan = None
    if request.mode == TEXT_TO_IMAGE:
        try:
            plan = provider.plan(request)
        except ProviderError:
            plan = None
    if plan and payload_hash(provider_id, plan) != record.hash:
        plan = None
    return PlannedCall(provider_id, provider, request, plan, Estimate(record.reserved), record)


def split_into_calls(request: GenerationRequest, most: int) -> list[GenerationRequest]:
    """As many requests as the images need, with consecutive seeds: no two of them can make the same picture."""
    return [
        replace(request, images=min(most, request.images - first), seed=request.seed + first)
        for first in range(0, request.images, most)
    ]


def estimate_of(provider: Provider, request: GenerationRequest, plan: Plan) -> Estimate:
    """What one call costs. A field that no table knows can make it cost anything."""
    if plan.unpriced:
        return Estimate(None, f"extra {', '.join(plan.unpriced)} may change the price")
    return provider.estimate(request)


def total(estimates: Iterable[Estimate]) -> Estimate:
    """Of several calls; unknown where one is."""
    estimates = list(estimates)
    prices = [estimate.usd for estimate in estimates]
    usd = None if None in prices else round(sum(price for price in prices if price is not None), 6)
    return Estimate(usd, next((estimate.note for estimate in estimates if estimate.note), ""))


def described(request: GenerationRequest) -> dict[str, Any]:
    """All but the pictures, and the size that one had before it was scaled to be sent. Without LoRAs it is what version
    0.1.0 wrote: what that has paid for is found by it."""
    values = {**asdict(replace(request, image=None, mask=None, extra={})), "extra": dict(request.extra)}
    del values["mask"], values["image_was"]
    values["loras"] = [(lora.path, lora.strength) for lora in request.loras]
    if not request.loras:
        del values["loras"]
    return values


def payload_hash(provider_id: str, plan: Plan) -> str:
    return _hash(plan.image, plan.mask, provider_id, plan.endpoint, plan.payload)


def seedless_key_of(provider_id: str, request: GenerationRequest) -> str:
    """What is asked but for the seed, which is written behind it."""
    return _hash(request.image, request.mask, provider_id, described(replace(request, seed=0))) + "/"


def _hash(image: bytes | None, mask: bytes | None, *values: Any) -> str:
    seen = [hashlib.sha256(image).hexdigest() if image is not None else None]
    seen += [hashlib.sha256(mask).hexdigest()] if mask is not None else []
    return hashlib.sha256(json.dumps([*values, *seen], sort_keys=True, default=dict).encode()).hexdigest()[:40]
