"""core.today: Replicate's model under its own API, paid in credits. Its two documents disagree, so both are read."""

from __future__ import annotations

import json

from .answers import (
    Site,
    as_dict,
    bad_job,
    first_text,
    is_about_content,
    lost,
    picture_urls,
    refusal,
    safe_id,
)
from .contract import (
    Answer,
    Call,
    ContentRefused,
    Delivery,
    Estimate,
    Following,
    GenerationFailed,
    GenerationRequest,
    Job,
    Plan,
    Progress,
    Provider,
    ProviderError,
    Submission,
    Upload,
)
from .payload import nonzero_seed32
from .polling import poll
from .replicate import MAX_IMAGES, MODEL, PARAMETERS, krea_input

SITE = Site("core.today", "https://console.core.today", "https://console.core.today")
HOSTS = ("api.core.today",)
API = "https://api.core.today/v1"
CREDITS_PER_REQUEST = 45
USD_PER_CREDIT = 0.001

_DONE = ("completed", "succeeded")
_FAILED = ("failed", "error")
_STOPPED = ("cancelled", "canceled", "aborted")


def plan(request: GenerationRequest) -> Plan:
    payload, size = krea_input(SITE.label, request)
    return payload.plan(MODEL, {"model": MODEL, "input": payload.fields}, size)


def estimate(request: GenerationRequest) -> Estimate:
    note = f"{CREDITS_PER_REQUEST} credits a request"
    if request.images > 1:
        # Nobody says whether a request for several pictures is one request: a budget must assume the dear answer.
        note += ", counted once a picture here: whether more pictures cost more is not documented"
    return Estimate(request.images * CREDITS_PER_REQUEST * USD_PER_CREDIT, note)


def follow(job: Job, request: GenerationRequest) -> Following:
    job_id = safe_id(job.get("id"))
    if job_id is None:
        raise bad_job(SITE)
    url = f"{API}/predictions/{job_id}"
    cancel = Call("DELETE", url)
    ask = Call("GET", url, cancel=cancel, progress=Progress("Sent to core.today"))
    return (yield from poll(ask, lambda answer: _read(answer, request, job_id), SITE))


def submit(plan: Plan) -> Submission:
    if plan.image:
        form = {"model": MODEL, "input": json.dumps(plan.payload["input"])}
        image = Upload("file:image", "image.png", plan.image)
        answer = yield Call("POST", f"{API}/predictions/upload", form=form, files=(image,), paid=True)
    else:
        answer = yield Call("POST", f"{API}/predictions", json=dict(plan.payload), paid=True)
    if not answer.ok:
        raise refusal(answer, SITE)
    body = as_dict(answer.json())
    job_id = safe_id(body.get("job_id")) or safe_id(body.get("id"))
    if job_id is None:
        raise lost(SITE)
    return {"id": job_id}


def _read(answer: Answer, request: GenerationRequest, job_id: str) -> Progress | Delivery | None:
    body = as_dict(answer.json()) if answer.ok else {}
    status = body.get("status")
    if not isinstance(status, str):
        return None
    if status in _FAILED or status in _STOPPED:
        text = next(filter(None, (first_text(body.get(key)) for key in ("error", "detail", "message"))), "")
        raise _ending(status, text)
    if status not in _DONE:
        return Progress("core.today is generating" if status == "processing" else "Waiting at core.today")
    pictures = next(filter(None, (picture_urls(body.get(key)) for key in ("result", "output", "public_url"))), ())
    if not pictures:
        return None
    pictures = pictures[: request.images]
    return Delivery(
        pictures=pictures,
        flags=(None,) * len(pictures),  # no flag is documented
        seed=nonzero_seed32(request.seed),
        request_id=job_id,
        withheld=request.images - len(pictures),
    )


def _ending(status: str, text: str) -> ProviderError:
    unsure = f"Whether it is billed is not documented: look at {SITE.billing}."
    if status in _STOPPED:
        return GenerationFailed(f"The job was cancelled at core.today. {unsure}", paid=None)
    if is_about_content(text):
        return ContentRefused(f"core.today withheld every picture: {text} Change the prompt. {unsure}", paid=None)
    return GenerationFailed(f"core.today's job failed: {text or 'no reason given'}. {unsure}", paid=None)


PROVIDER = Provider(
    label=SITE.label,
    key_variable="CORE_API_KEY",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"X-API-Key": key},
    plan=plan,
    submit=submit,
    follow=follow,
    estimate=estimate,
    parameters=PARAMETERS,
    max_images=MAX_IMAGES,
    picture_hosts=("replicate.delivery",),
)
