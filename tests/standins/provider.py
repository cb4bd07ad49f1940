"""What every provider has: routes, a key, jobs that run by the clock, uploads, pictures and a bill."""

import random
import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from . import faults, pictures
from .messages import BadBody, Refusal, Reply, Request

if TYPE_CHECKING:
    from .server import Standin

NSFW = re.compile(r"NSFW(?:@(\d+))?")


class Route(NamedTuple):
    """`handler` names a method that takes the request and the pattern's groups. `open` routes need no key."""

    method: str
    pattern: str
    phase: str
    handler: str
    open: bool = False


@dataclass
class Job:
    """One accepted paid call. It needs no thread: where it stands follows from the clock."""

    endpoint: str
    input: dict
    size: tuple[int, int]
    form: str
    quality: int
    seed: int
    blocked: list[bool]  # one a picture: the safety checker struck
    usd: float
    queue_seconds: float
    run_seconds: float
    fate: faults.Fault | None = None
    image: dict | None = None
    canvas: pictures.Canvas | None = None  # what a mask keeps
    extra: dict = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    accepted: float = field(default_factory=time.time)
    cancelled: float = float("inf")
    deadline: float = float("inf")
    polls: int = 0
    pictures_served: int = 0

    @property
    def prompt(self) -> str:
        return self.input.get("prompt", "")

    @property
    def started(self) -> float:
        return self.accepted + self.queue_seconds

    @property
    def ended(self) -> float:
        return float("inf") if self.fails("never_ends") else self.started + self.run_seconds

    @property
    def stopped(self) -> float:
        """When it was stopped from outside: infinity where it never was, or only after its end."""
        stop = min(self.cancelled, self.deadline)
        return stop if stop < self.ended else float("inf")

    def fails(self, kind: str) -> bool:
        return self.fate is not None and self.fate.kind == kind

    def stage(self) -> str:
        now = time.time()
        if self.stopped <= now:
            return "stopped"
        return "queued" if now < self.started else "running" if now < self.ended else "done"

    @property
    def stopped_in_queue(self) -> bool:
        return self.stopped < self.started

    def share_done(self) -> float:
        return min(1.0, max(0.0, (time.time() - self.started) / max(self.run_seconds, 1e-9)))


class Provider:
    """What all of them have. One instance belongs to one Standin."""

    name: str
    key: str
    key_variable: str
    routes: tuple[Route, ...]
    unbilled_fates: tuple[str, ...] = ("failed",)
    blackens = True  # what its safety checker strikes is delivered black
    bad_body_status = 400
    canned: dict[int, str] = {}  # what it says with a bare status
    defaults: dict = {}
    common_defaults = {
        "job_seconds": 0.05,
        "queue_seconds": 0.0,
        "download_seconds": 0.0,
        "delays": {},  # phase: seconds an answer is held back
        "picture_base": None,  # address in picture URLs instead of this server's
        "picture_lifetime": None,  # seconds until a picture's URL is dead
    }

    def __init__(self, standin: "Standin"):
        self.standin = standin
        self.forget()

    def forget(self):
        self.settings = {**self.common_defaults, **self.defaults}
        self.jobs: dict[str, Job] = {}
        self.uploads: dict[str, bytes] = {}
        self.cancels: list[dict] = []

    # What a provider adds or replaces

    def authorized(self, request: Request) -> bool:
        raise NotImplementedError

    def error(self, status: int, message: str | None = None) -> Reply:
        """The provider's error body for a status; `message` replaces its usual words."""
        raise NotImplementedError

    def with_status(self, body: dict, word: str) -> dict:
        return {**body, "status": word}

    # One request

    def answer(self, request: Request, entry: dict) -> Reply:
        """The reply, or what a fault makes of it."""
        route = self._route(request)
        phase = entry["phase"] = self.phase_of(request, route) if route else None
        fault = route and self.standin.take_fault(phase, self._text_of(request))
        reply = faults.spoil(fault, request, self) if fault else self.serve(request)
        if phase in self.settings["delays"]:
            self.standin.wait(self.settings["delays"][phase])
        return reply

    def serve(self, request: Request) -> Reply:
        """The true reply."""
        route = self._route(request)
        try:
            if route is None:
                self.refuse(405 if self._route(request, any_method=True) else 404)
            if not route.open and not self.authorized(request):
                self.refuse(401)
            return getattr(self, route.handler)(request, *re.fullmatch(route.pattern, request.path).groups())
        except Refusal as refusal:
            return refusal.reply
        except BadBody as error:
            return self.error(self.bad_body_status, str(error))

    def phase_of(self, request: Request, route: Route) -> str:
        """The part of the exchange that a request belongs to; a provider with one address reads it off the body."""
        return route.phase

    def _route(self, request: Request, any_method: bool = False) -> Route | None:
        for route in (*self.routes, Route("GET", r"/files/([\w-]+)/out-(\d+)\.\w+", "picture", "picture", open=True)):
            if (any_method or route.method == request.method) and re.fullmatch(route.pattern, request.path):
                return route
        return None

    def _text_of(self, request: Request) -> str:
        """Where a fault's `prompt` is looked for: in the body, or in the prompt of the job that the request names."""
        body = request.body.decode("latin-1")
        prompts = [job.prompt for job in self.all_jobs() if job.id in request.target or job.id in body]
        return "\n".join([body, *prompts])

    def refuse(self, status: int, message: str | None = None):
        raise Refusal(self.error(status, message))

    # Jobs

    def accept(
        self, endpoint: str, given: dict, *, count: int, safe: bool, usd: float, seed: int | None, **rest
    ) -> Job:
        """Takes a paid call on. From here on it is billed, whatever becomes of the answer."""
        fate = self.standin.take_fault("job", given.get("prompt", ""))
        job = Job(
            endpoint=endpoint,
            input=given,
            seed=random.getrandbits(31) if seed is None else seed,
            blocked=self._blocked(given.get("prompt", ""), count, fate) if safe else [False] * count,
            usd=usd,
            queue_seconds=self.settings["queue_seconds"],
            run_seconds=self.settings["job_seconds"],
            fate=fate,
            **rest,
        )
        with self.standin.lock:
            self.jobs[job.id] = job
        return job

    @staticmethod
    def _blocked(prompt: str, count: int, fate: faults.Fault | None) -> list[bool]:
        """`NSFW` in the prompt blocks every picture, `NSFW@1` the second; so does the job fault `nsfw` (`index`)."""
        found = NSFW.search(prompt)
        if found:
            return [found[1] is None or int(found[1]) == index for index in range(count)]
        if fate and fate.kind == "nsfw":
            return [fate.options.get("index", index) == index for index in range(count)]
        return [False] * count

    def all_jobs(self) -> list[Job]:
        """In the order they came; a copy, for other threads may be adding."""
        with self.standin.lock:
            return [*self.jobs.values()]

    def job(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            self.refuse(404)
        return self.jobs[job_id]

    def stop(self, job: Job):
        """A cancel that came; it counts as effective when the job had not ended."""
        now = time.time()
        with self.standin.lock:
            job.cancelled = min(job.cancelled, now)
            self.cancels.append({"job": job.id, "time": now, "effective": now < job.ended})

    def finish(self, job: Job):
        """Blocks until the job is over, for providers that answer with the picture."""
        self.standin.wait(None if job.fails("never_ends") else max(0.0, job.ended - time.time()))

    def is_billed(self, job: Job) -> bool:
        return not job.stopped_in_queue and not (job.fate and job.fate.kind in self.unbilled_fates)

    def state(self) -> dict:
        billed = [job for job in self.jobs.values() if self.is_billed(job)]
        return {
            "provider": self.name,
            "accepted": len(self.jobs),
            "billed": len(billed),
            "usd": round(sum(job.usd for job in billed), 6),
            "cancels": [dict(cancel) for cancel in self.cancels],
            "jobs": [self._job_state(job) for job in self.jobs.values()],
            "settings": dict(self.settings),
        }

    def _job_state(self, job: Job) -> dict:
        return {
            "id": job.id,
            "endpoint": job.endpoint,
            "input": {name: _short(value) for name, value in job.input.items()},
            "prompt": job.prompt,
            "seed": job.seed,
            "size": list(job.size),
            "stage": job.stage(),
            "accepted_at": job.accepted,
            "cancelled_at": None if job.cancelled == float("inf") else job.cancelled,
            "billed": self.is_billed(job),
            "usd": job.usd,
            "polls": job.polls,
            "pictures_served": job.pictures_served,
            "image": job.image,
        }

    # Pictures

    def picture_url(self, job: Job, index: int) -> str:
        return f"{self.settings['picture_base'] or self.standin.base_url}/files/{job.id}/out-{index}.{job.form}"

    def picture_bytes(self, job: Job, index: int) -> bytes:
        if self.blackens and job.blocked[index]:
            return pictures.encode(job.size, pictures.BLACK, job.form, job.quality)
        colour = pictures.expected_pixel(job.prompt, job.seed, index)
        if job.canvas:
            return pictures.encode_repainted(job.canvas, job.size, colour, job.form, job.quality)
        return pictures.encode(job.size, colour, job.form, job.quality)

    def picture(self, request: Request, job_id: str, index: str) -> Reply:
        job = self.job(job_id)
        if int(index) >= len(job.blocked) or job.stage() != "done" or self.expired(job):
            self.refuse(404)
        job.pictures_served += 1
        headers = {"Content-Type": self.picture_type(job)}
        return Reply(200, self.picture_bytes(job, int(index)), headers, pace=self.settings["download_seconds"])

    def picture_type(self, job: Job) -> str:
        return pictures.MIME[job.form]

    def expired(self, job: Job) -> bool:
        lifetime = self.settings["picture_lifetime"]
        return lifetime is not None and time.time() > job.ended + lifetime

    def input_image(self, reference: str) -> pictures.Image.Image:
        """The picture behind a data URI or the address of an upload; ValueError when there is none."""
        if reference.startswith("data:"):
            return pictures.read_image(pictures.read_data_uri(reference))
        if reference not in self.uploads:
            raise ValueError(f"nothing was uploaded at {reference[:100]}")
        return pictures.read_image(self.uploads[reference])


def _short(value):
    return value[:40] + "…" if isinstance(value, str) and value.startswith("data:") else value


def iso(moment: float) -> str | None:
    """UTC in ISO 8601 with a Z; None for a moment that has not come."""
    if moment > time.time():
        return None
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 date or time (UTC when it names no zone); ValueError otherwise."""
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return parsed.timestamp() if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc).timestamp()
