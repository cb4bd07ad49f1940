"""The boundary types: what is asked, what one HTTP call is, what a provider is, what comes back.

    GenerationRequest ──plan──► Plan ──submit──► Call, Call … ──► Job ──follow──► Call, Call … ──► Delivery

`submit` and `follow` are generators that do no I/O: they yield a `Call` and are sent its `Answer`. `submit` holds the one
paid call and returns the provider's `Job`, or at a provider that blocks until it is done the `Delivery` itself. `follow`
is free and can be repeated, also after a restart. Both raise `ProviderError`. So a provider is tested with plain
dictionaries, and sending, waiting, cancelling, redacting and journalling exist once, in `jobs/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT_TO_IMAGE = "text_to_image"
IMAGE_TO_IMAGE = "image_to_image"
INPAINTING = "inpainting"
REDUX = "redux"
WITH_LORA = "_with_lora"  # behind a mode: its table where a LoRA makes it another one

AUTO = "auto"  # the provider value that leaves the choice to us


@dataclass(frozen=True)
class Lora:
    """A style. `path` is an https address, a Hugging Face id (owner/name) or an AIR id (source:model@version)."""

    path: str
    strength: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    """One generation in ComfyUI's words. Sizes in pixels; `image` is an encoded RGB PNG, `mask` a grey one of the same
    size, whose white is repainted."""

    prompt: str
    mode: str = TEXT_TO_IMAGE
    image: bytes | None = None
    strength: float = 0.95
    width: int = 1024
    height: int = 1024
    steps: int = 28
    guidance: float = 4.5
    seed: int = 0
    images: int = 1
    acceleration: str = "none"
    safety_checker: bool = True
    output_format: str = "png"
    quality: int = 95
    extra: Mapping[str, Any] = field(default_factory=dict)
    mask: bytes | None = None
    loras: tuple[Lora, ...] = ()
    image_was: tuple[int, int] | None = None  # (width, height) of an image that was scaled down to be sent


@dataclass(frozen=True)
class Change:
    """A value that the provider gets in another form: said in the report as asked → delivered."""

    parameter: str
    asked: Any
    delivered: Any
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """As the report and the page show it."""
        return {"input": self.parameter, "asked": self.asked, "delivered": self.delivered, "because": self.reason}


@dataclass(frozen=True)
class Plan:
    """A request in the provider's own words. `payload` is exact, but for image and mask, which travel beside it.

    `order_id` is a UUID that the journal keeps before the paid call leaves, for a provider that takes an id of ours."""

    endpoint: str
    payload: Mapping[str, Any]
    image: bytes | None = None
    size: tuple[int, int] | None = None  # what will be delivered (width, height), None when only the provider knows
    changes: tuple[Change, ...] = ()
    unpriced: tuple[str, ...] = ()  # fields from `extra` that no table knows: with one the price is unknown
    mask: bytes | None = None
    order_id: str = ""


@dataclass(frozen=True)
class Upload:
    """One file part of a multipart body."""

    name: str
    filename: str
    content: bytes = field(repr=False)
    content_type: str = "image/png"


@dataclass(frozen=True)
class Progress:
    """What the node shows while a call is under way. `fraction` is 0..1, None when nobody knows."""

    text: str
    fraction: float | None = None
    logs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One HTTP call, described. Give at most one of `json`, `form`/`files` (multipart) and `body`.

    `paid` marks the call that costs money: it is sent at most once, whatever happens. `cancel` is the call that stops
    the remote job from here on. `delay` in seconds is waited before sending. `authorize=False` keeps the key out.
    """

    method: str
    url: str
    json: Any = None
    form: Mapping[str, str] | None = None
    files: tuple[Upload, ...] = ()
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    authorize: bool = True
    paid: bool = False
    usd: float | None = None  # what the provider, asked before, says that the paid call costs: held against the limits
    delay: float = 0.0
    timeout: float = 60.0  # seconds without a byte
    max_answer: int = 2**20  # bytes; a longer answer is refused
    cancel: Call | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are lower case; `body` is no longer than the call's `max_answer`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON, None when it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class Delivery:
    """What the provider made. `pictures` are https or data: URLs; `flags` has one entry a picture,
    True (flagged), False (checked, not flagged) or None (not checked)."""

    pictures: tuple[str, ...]
    flags: tuple[bool | None, ...]
    seed: int | None = None
    cost_usd: float | None = None  # as billed, where the provider tells
    request_id: str | None = None
    withheld: int = 0  # pictures asked for, paid, and kept back by the provider's own filter
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One picture on disk, complete and measured, not decoded."""

    path: str
    width: int
    height: int

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()


@dataclass(frozen=True)
class Estimate:
    """What a run will cost. `usd` is None where nobody knows; a budget then refuses the run."""

    usd: float | None
    note: str = ""


@dataclass(frozen=True)
class GenerationResult:
    """What a run has in the end. `pictures` and `flags` run in parallel, in the order of the seeds."""

    provider: str
    pictures: tuple[Picture, ...]
    flags: tuple[bool | None, ...]
    seed: int  # of the first picture: as delivered where the provider tells, else as sent
    estimate: Estimate  # of what this run paid for; 0.0 where everything was reused
    cost_usd: float | None = None  # billed for this run, where the provider tells
    request_ids: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    withheld: int = 0  # pictures that the provider's filter kept back, alone or with the whole call they were in
    reused: int = 0  # pictures that an earlier run had paid for
    seconds: Mapping[str, float] = field(default_factory=dict)  # generate and download, of the slowest part
    mode: str = ""  # as in the request


@dataclass(frozen=True)
class Parameter:
    """How a provider takes one of ComfyUI's inputs: `how` is passthrough, renamed, converted, emulated or unsupported.

    `default` is what the provider takes where nothing is sent, in our words where it has any."""

    how: str
    field: str = ""
    note: str = ""
    minimum: float | None = None
    maximum: float | None = None
    default: Any = None
    choices: tuple[str, ...] = ()


Job = Mapping[str, Any]  # what `follow` needs to find the job again: small, JSON, no secret
Submission = Generator[Call, Answer, "Job | Delivery"]
Following = Generator[Call, Answer, Delivery]
Search = Generator[Call, Answer, "tuple[Job, ...]"]


@dataclass(frozen=True)
class Provider:
    """One provider, as a value. Its module name is its id; every host that may see its key is in `hosts`."""

    label: str
    key_variable: str
    key_page: str
    hosts: tuple[str, ...]
    headers: Callable[[str], Mapping[str, str]]  # key → authorization headers
    plan: Callable[[GenerationRequest], Plan]  # raises Unsupported before anything is sent
    submit: Callable[[Plan], Submission]
    estimate: Callable[[GenerationRequest], Estimate]
    parameters: Mapping[str, Mapping[str, Parameter]]  # mode → input name → Parameter; a mode not listed is unsupported
    follow: Callable[[Job, GenerationRequest], Following] | None = None  # None: `submit` ends in the delivery
    find_lost: Callable[[Plan, float], Search] | None = None  # (plan, its age in seconds) → jobs with this very payload
    max_images: int = 1  # in one paid call
    repeatable_for: float = 0.0  # seconds in which a second paid call with the same `order_id` costs nothing
    unlisted_modes: tuple[str, ...] = ()  # that its own page does not list: `auto` does not choose it for them
    presets: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # sizes that are its own
    picture_hosts: tuple[str, ...] = ()  # hosts beside `hosts` that pictures come from
    declined: Callable[[Answer], bool] = lambda answer: False  # beside 429: certainly not accepted, worth another try
    check: Call | None = None  # a call that costs nothing and says whether the key is good


def money(usd: float) -> str:
    """US dollars for people: cents, and smaller parts only where there are any."""
    text = f"{usd:.4f}".rstrip("0")
    whole, _, parts = text.partition(".")
    return f"${whole}.{parts:0<2}"


class ProviderError(Exception):
    """What went wrong at a provider, as a sentence for the person who must act.

    `paid` says whether money was spent: False, True, or None when nobody can know. Where it is False the job was
    certainly not accepted, and another provider may be asked.

    ProviderError
     ├─ Unsupported        the provider cannot do what was asked; nothing was sent
     ├─ OverBudget         refused by a budget; nothing was sent
     │   └─ TooDear        this provider asks far more than was counted, or what nobody can read; nothing was sent
     ├─ KeyRefused         no key, or not this key
     ├─ BalanceTooLow      the account cannot pay
     ├─ ContentRefused     the prompt, the image or the result was refused
     ├─ RequestRefused     the provider does not take these values
     ├─ RateLimited        too many requests; `retry_after` seconds
     ├─ Unavailable        the provider or the way to it is down
     ├─ GenerationFailed   the job was accepted and ended without a picture
     ├─ BadAnswer          the provider answered something nobody can read
     ├─ UnknownOutcome     the paid call was sent and its answer lost
     └─ Cancelled          the user stopped it
    """

    def __init__(self, message: str, *, paid: bool | None = False, retry_after: float | None = None):
        super().__init__(message)
        self.paid = paid
        self.retry_after = retry_after


class Unsupported(ProviderError):
    pass


class OverBudget(ProviderError):
    pass


class TooDear(OverBudget):
    pass


class KeyRefused(ProviderError):
    pass


class BalanceTooLow(ProviderError):
    pass


class ContentRefused(ProviderError):
    pass


class RequestRefused(ProviderError):
    pass


class RateLimited(ProviderError):
    pass


class Unavailable(ProviderError):
    pass


class GenerationFailed(ProviderError):
    pass


class BadAnswer(ProviderError):
    pass


class UnknownOutcome(ProviderError):
    pass


class Cancelled(ProviderError):
    pass
