"""WaveSpeed: text, image to image and LoRAs in one endpoint that takes no steps, no count and no safety switch.

It tells its price before a job and the bill after it. Its list of jobs shows no inputs, each job does.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import datetime
from typing import Any

from .answers import (
    Site,
    as_dict,
    bad_job,
    error_text,
    finite_number,
    first_text,
    is_about_balance,
    is_about_content,
    lost,
    moment,
    picture_urls,
    refusal,
    safe_id,
    unread_list,
)
from .contract import (
    IMAGE_TO_IMAGE,
    TEXT_TO_IMAGE,
    Answer,
    BalanceTooLow,
    Call,
    ContentRefused,
    Delivery,
    Estimate,
    Following,
    GenerationFailed,
    GenerationRequest,
    Job,
    Parameter,
    Plan,
    Progress,
    Provider,
    ProviderError,
    RequestRefused,
    Search,
    Submission,
    TooDear,
    money,
)
from .loras import is_address_or_hugging_face_id, taken_by
from .payload import ACCELERATIONS, PayloadBuilder, Size, at_least, png_size, snap
from .polling import poll

SITE = Site("WaveSpeed", "https://wavespeed.ai/accesskey", "https://wavespeed.ai/billing")
HOSTS = ("api.wavespeed.ai",)
API = "https://api.wavespeed.ai/api/v3"
MODEL = "wavespeed-ai/flux-krea-dev-lora"
USD_PER_IMAGE = 0.025  # two resellers say so; WaveSpeed's own page was not to be had
MOST_USD = 2 * USD_PER_IMAGE  # what it may ask for a picture that the limits counted as the above
LONGEST_SIDE, SHORTEST_SIDE = 1536, 256
MOST_LORAS, LORA_STRENGTHS = 3, (0.0, 4.0)
LEAST_PAUSE = 2.0  # seconds between polls, as it asks
MOST_LISTED = 100  # on the one page that is read, newest first
MARGIN = 300.0  # seconds that its clocks may differ
MODERATED, MISSING, INVALID, NO_MEDIA = 1200, 1400, 1401, 1402
ITS_OWN = "WaveSpeed's own"
NO_PICTURE = ("failed", "timeout", "cancelled", "deleted")  # states

_COMMON = {
    "prompt": Parameter("passthrough", "prompt"),
    "steps": Parameter("unsupported", note="WaveSpeed sets the number of steps itself", default=ITS_OWN),
    "guidance": Parameter("renamed", "guidance_scale", minimum=0, maximum=20, default=3.5),
    "seed": Parameter("passthrough", "seed", "the lower 31 bits"),
    "images": Parameter("emulated", note="one paid call for each picture", minimum=1, maximum=1, default=1),
    "acceleration": Parameter(
        "unsupported", note="WaveSpeed has no switch for it", default="none", choices=ACCELERATIONS
    ),
    "safety_checker": Parameter("unsupported", note="WaveSpeed has no switch for it", default=True),
    "output_format": Parameter("passthrough", "output_format", default="jpeg", choices=("png", "jpeg", "webp")),
    "quality": Parameter("unsupported", note="WaveSpeed sets the quality itself", default=ITS_OWN),
    "loras": Parameter("renamed", "loras", "up to 3 https addresses or Hugging Face ids"),
}
_SIZE = Parameter("converted", "size", "multiples of 16", SHORTEST_SIDE, LONGEST_SIDE, "1024*1024")
_SIZE_OF_IMAGE = Parameter("converted", "size", "the input image's, in multiples of 16")
PARAMETERS = {
    TEXT_TO_IMAGE: {**_COMMON, "width": _SIZE, "height": _SIZE},
    IMAGE_TO_IMAGE: {
        **_COMMON,
        "image": Parameter("renamed", "image", "uploaded as a file"),
        "strength": Parameter("passthrough", "strength", minimum=0, maximum=1, default=0.8),
        "width": _SIZE_OF_IMAGE,
        "height": _SIZE_OF_IMAGE,
    },
}


def plan(request: GenerationRequest) -> Plan:
    payload = PayloadBuilder(SITE.label, PARAMETERS, request)
    payload.pass_on("prompt", "guidance")
    payload.set("seed", request.seed & 0x7FFFFFFF, "WaveSpeed gets the lower 31 bits of a seed")
    payload.choice("acceleration")
    payload.set("output_format", payload.choice("output_format"))
    if request.mode == IMAGE_TO_IMAGE:
        payload.pass_on("strength")
    asked, size = _asked_size(request), _delivered_size(request)
    payload.set_size(
        size, {"size": "{}*{}".format(*size)}, "WaveSpeed makes multiples of 16, 256 to 1536 a side", asked
    )
    kinds = "https addresses and Hugging Face ids of LoRAs"
    loras = taken_by(SITE.label, request, is_address_or_hugging_face_id, kinds, LORA_STRENGTHS, MOST_LORAS)
    if loras:
        payload.set("loras", [{"path": lora.path, "scale": lora.strength} for lora in loras])
    payload.refuse_extra("enable_sync_mode", "enable_base64_output", "webhook")
    payload.merge_extra()
    return payload.plan(MODEL, payload.fields, size)


def _asked_size(request: GenerationRequest) -> Size:
    """The input image's, where there is one."""
    return png_size(request.image) if request.image else (request.width, request.height)


def _delivered_size(request: GenerationRequest) -> Size:
    size = at_least(*_asked_size(request), SHORTEST_SIDE)
    return snap(*size, longest=LONGEST_SIDE, shortest=SHORTEST_SIDE)


def estimate(request: GenerationRequest) -> Estimate:
    note = f"{money(USD_PER_IMAGE)} a picture, as resellers list it; WaveSpeed is asked for its price before it is paid"
    return Estimate(request.images * USD_PER_IMAGE, note)


def submit(plan: Plan) -> Submission:
    fields = dict(plan.payload)
    usd = yield from _price(fields)
    if plan.image:
        fields["image"] = yield from _upload(plan.image)
    answer = yield Call("POST", f"{API}/{MODEL}", json=fields, paid=True, usd=usd)
    if not answer.ok:
        raise _refusal(answer)
    job_id = safe_id(_data(answer).get("id"))
    if job_id is None:
        raise lost(SITE)
    return {"id": job_id}


def _price(fields: Mapping[str, Any]) -> Generator[Call, Answer, float | None]:
    """What WaveSpeed asks for this, in US dollars; None where it tells no price, on the newer of two addresses or on the
    older: then it costs what was counted. Raises TooDear for a price far above that, or that nobody can read."""
    body = {"model_id": MODEL, "inputs": dict(fields)}
    for path, names in (("price", ("price", "discounted_price")), ("pricing", ("unit_price",))):
        answer = yield Call(
            "POST", f"{API}/model/{path}", json=body, progress=Progress("Asking WaveSpeed for its price")
        )
        data = _data(answer) if answer.ok else {}
        told = [data[name] for name in names if data.get(name) is not None]
        if told:
            return _affordable(told, data.get("currency", "USD"))
    return None


def _affordable(told: list[Any], currency: Any) -> float:
    """The dearest: which of a price and its discount is billed is not documented."""
    prices = [price for value in told if (price := finite_number(value)) is not None]
    if len(prices) < len(told) or currency != "USD":
        raise TooDear(
            f"WaveSpeed's price for this picture cannot be read ({told!r:.40} {currency!r:.10}). Nothing was sent. "
            "Choose another provider."
        )
    if max(prices) > MOST_USD:
        raise TooDear(
            f"WaveSpeed asks {money(max(prices))} for this picture, which was counted as {money(USD_PER_IMAGE)}. "
            "Nothing was sent. Choose another provider."
        )
    return max(prices)


def _upload(image: bytes) -> Generator[Call, Answer, str]:
    """A ticket, then the file to where the ticket says: that address is no host of WaveSpeed's, and sees no key."""

    def read_ticket(answer: Answer) -> dict[str, Any] | None:
        if 400 <= answer.status < 500:
            raise _refusal(answer)
        ticket = _data(answer) if answer.ok else {}
        put = as_dict(ticket.get("upload"))
        is_whole = isinstance(put.get("url"), str) and isinstance(ticket.get("download_url"), str)
        return ticket if is_whole and str(put.get("method")).upper() == "PUT" else None

    def read_put(answer: Answer) -> bool | None:
        return answer.ok or None

    said = {"filename": "image.png", "size": len(image), "content_type": "image/png"}
    progress = Progress("Uploading the image to WaveSpeed")
    ticket = yield from poll(
        Call("POST", f"{API}/media/uploads", json=said, progress=progress), read_ticket, SITE, paid=False
    )
    put = ticket["upload"]
    headers = {name: value for name, value in as_dict(put.get("headers")).items() if isinstance(value, str)}
    call = Call("PUT", put["url"], body=image, headers=headers, authorize=False, progress=progress)
    yield from poll(call, read_put, SITE, paid=False)
    return str(ticket["download_url"])


def _refusal(answer: Answer) -> ProviderError:
    text = error_text(answer)
    if 400 <= answer.status < 500 and answer.status not in (401, 429) and is_about_balance(text):
        return BalanceTooLow(f"WaveSpeed answered {answer.status}: {text}. Top up at {SITE.billing}.")
    refused = refusal(answer, SITE)
    if answer.status == 401:
        refused.args = (f"{refused} A key made before the first top-up works only after it.",)
    return refused


def follow(job: Job, request: GenerationRequest) -> Following:
    job_id = safe_id(job.get("id"))
    if job_id is None:
        raise bad_job(SITE)
    ask = Call("GET", _address(job_id), progress=Progress("Sent to WaveSpeed"))
    body = yield from poll(ask, _read, SITE, least=LEAST_PAUSE)
    pictures = picture_urls(body.get("outputs"))[:1]
    flags = body.get("has_nsfw_contents")
    flag = flags[0] if isinstance(flags, list) and flags and isinstance(flags[0], bool) else None
    cost = yield from _bill(job_id)
    return Delivery(
        pictures=pictures,
        flags=(flag,) * len(pictures),
        seed=request.seed & 0x7FFFFFFF,  # it tells no seed but the one it was sent
        cost_usd=cost,
        request_id=job_id,
    )


def _address(job_id: str) -> str:
    return f"{API}/predictions/{job_id}/result"


def _read(answer: Answer) -> Progress | dict[str, Any] | None:
    """A Progress, the finished prediction, or None; raises how it ended without a picture."""
    body = _data(answer) if answer.ok else {}
    status, text = body.get("status"), first_text(body.get("error")) or "no reason given"
    if status == "failed":
        raise _failure(body.get("code"), text)
    if status == "timeout":
        raise GenerationFailed(f"WaveSpeed's task timed out: {text}. WaveSpeed refunds it by itself; run again.")
    if status in ("cancelled", "deleted"):
        raise GenerationFailed(f"The task was {status} at WaveSpeed. It may be billed.", paid=None)
    if status == "completed":
        return body if picture_urls(body.get("outputs")) else None
    if not isinstance(status, str):
        return None
    return Progress("In WaveSpeed's queue" if status == "created" else "WaveSpeed is generating")


def _failure(code: Any, text: str) -> ProviderError:
    """Failed tasks are refunded within three hours, without being asked."""
    if code == MODERATED or is_about_content(text):
        return ContentRefused(f"WaveSpeed refused the content: {text}. Change the prompt or the image.")
    if code in (MISSING, INVALID, NO_MEDIA):
        return RequestRefused(f"WaveSpeed refused the values: {text}. Change the named value and run again.")
    return GenerationFailed(f"WaveSpeed's task failed: {text}. WaveSpeed refunds it by itself; run again.")


def _bill(job_id: str) -> Generator[Call, Answer, float | None]:
    """One look: bills come late, and a picture does not wait for them."""
    body = {"prediction_uuids": [job_id], "page": 1, "page_size": 10}
    answer = yield Call("POST", f"{API}/billings/search", json=body, progress=Progress("WaveSpeed is done", 1.0))
    items = _data(answer).get("items") if answer.ok else None
    ours = [item for item in map(as_dict, items if isinstance(items, list) else ()) if _is_of(item, job_id)]
    prices = [finite_number(item.get("price")) for item in ours]
    known = [price for price in prices if price is not None]
    return sum(known) if known else None


def _is_of(bill: Mapping[str, Any], job_id: str) -> bool:
    return bool(as_dict(bill.get("prediction")).get("uuid", job_id) == job_id)


def find_lost(plan: Plan, age: float) -> Search:
    """The jobs with this model that are not older than the lost call, each looked at: the list shows no input, a job does.
    How old they are is told by WaveSpeed's own clock."""
    if plan.image:
        return ()  # each upload has its own address, so no listed job can be told to be this one
    listed = yield Call(
        "POST",
        f"{API}/predictions",
        json={"page": 1, "page_size": MOST_LISTED, "model": MODEL},
        progress=Progress("Looking for the job at WaveSpeed"),
    )
    items = _data(listed).get("items") if listed.ok else None
    if not isinstance(items, list):
        raise unread_list(listed, SITE)
    now = moment(listed.headers.get("date"))
    recent = [item for item in map(as_dict, items) if not _is_older(item, now, age)]
    ids = list(filter(None, (safe_id(item.get("id")) for item in recent)))[:MOST_LISTED]
    answer, is_whole = listed, len(recent) < MOST_LISTED
    # Of two jobs alike, one that has failed is taken last: somebody else may have ordered it.
    running: list[Job] = []
    ended: list[Job] = []
    for job_id in ids:
        answer = yield Call("GET", _address(job_id), progress=Progress("Looking for the job at WaveSpeed"))
        job = _data(answer) if answer.ok else {}
        sent = as_dict(job.get("input"))
        is_whole = is_whole and bool(sent)
        if sent and "image" not in sent and all(sent.get(name) == value for name, value in plan.payload.items()):
            (ended if job.get("status") in NO_PICTURE else running).append({"id": job_id})
    found = (*running, *ended)
    if not found and not is_whole:
        raise unread_list(answer, SITE)
    return found


def _is_older(item: Mapping[str, Any], now: float | None, age: float) -> bool:
    """Than a call that left `age` seconds ago: certainly, also where a clock goes wrong by minutes."""
    try:
        created = datetime.fromisoformat(str(item.get("created_at")).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return False
    return now is not None and created < now - age - MARGIN


def _data(answer: Answer) -> dict[str, Any]:
    return as_dict(as_dict(answer.json()).get("data"))


PROVIDER = Provider(
    label=SITE.label,
    key_variable="WAVESPEED_API_KEY",
    key_page=SITE.keys,
    hosts=HOSTS,
    headers=lambda key: {"Authorization": f"Bearer {key}"},
    plan=plan,
    submit=submit,
    follow=follow,
    find_lost=find_lost,
    estimate=estimate,
    parameters=PARAMETERS,
    picture_hosts=("cdn.wavespeed.ai",),
    check=Call("GET", f"{API}/balance"),
)
