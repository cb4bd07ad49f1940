"""fal: a queue for FLUX.1 Krea [dev], its image-to-image and Redux; storage; platform API.

Read from the model pages and fal's queue, error and platform documentation. Where those are silent the stand-in takes
the stricter reading: unknown fields and JSON of the wrong type are refused, image-to-image follows its input's size.
"""

import math
import time

from . import pictures
from .checks import Field, Problem, problems
from .fal_services import PRICE_PER_MEGAPIXEL, SERVICE_ROUTES, FalServices
from .messages import Reply, Request
from .provider import Job, Route, iso, moment_of

MEGAPIXEL = 1024 * 1024
QUEUE = "https://queue.fal.run"
PRESETS = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
SIDE = Field("integer", low=1, high=14142, required=True)
COMMON = {
    "num_inference_steps": Field("integer", 1, 50),
    "seed": Field("integer"),
    "guidance_scale": Field("number", 1, 20),
    "sync_mode": Field("boolean"),
    "num_images": Field("integer", 1, 4),
    "enable_safety_checker": Field("boolean"),
    "output_format": Field(choices=("jpeg", "png")),
    "acceleration": Field(choices=("none", "regular", "high")),
}
PROMPT, IMAGE, SIZE = Field(required=True), Field(required=True), Field("any")
INPUTS = {
    "": {"prompt": PROMPT, "image_size": SIZE, **COMMON},
    "/image-to-image": {
        "prompt": PROMPT,
        "image_url": IMAGE,
        "strength": Field("number", 0.01, 1),
        **COMMON,
        "num_inference_steps": Field("integer", 10, 50),
    },
    "/redux": {"image_url": IMAGE, "image_size": SIZE, **COMMON},
}
RULES = {  # our words for a broken rule -> pydantic's type and the name of its limit in ctx
    "missing": ("missing", None),
    "unknown": ("extra_forbidden", None),
    "enum": ("literal_error", "expected"),
    "low": ("greater_than_equal", "ge"),
    "high": ("less_than_equal", "le"),
    "image": ("image_load_error", None),
    "content": ("content_policy_violation", None),
}


class Fal(FalServices):
    name = "fal"
    key = "test-key-fal:0123"
    key_variable = "FAL_KEY"
    app = r"/fal-ai/(flux|flux-1)/requests/([\w-]+)"
    routes = (
        *SERVICE_ROUTES,
        Route("POST", r"/fal-ai/(flux|flux-1)/krea(/image-to-image|/redux|)", "submit", "submit"),
        Route("GET", app + "/status", "poll", "status"),
        Route("GET", app, "result", "result"),
        Route("PUT", app + "/cancel", "cancel", "cancel"),
        Route("GET", "/v1/models/requests/by-endpoint", "list", "list"),
    )
    defaults = {
        "balance": 10.0,
        # The documentation sorts the list by end time; whether it shows a request before its end it does not say.
        "lists_unfinished": False,
    }
    canned = {
        401: "Cannot access application: invalid or missing authentication credentials",
        402: "Payment required",
        403: "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.",
        404: "Not Found",
        405: "Method Not Allowed",
        422: "Unprocessable Entity",
        429: "Too many requests",
        500: "Internal Server Error",
    }
    types = {400: "bad_request", 499: "client_cancelled", 500: "internal_error", 502: "runner_incomplete_response",
             503: "runner_scheduling_failure", 504: "request_timeout"}  # fmt: skip

    def authorized(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Key {self.key}"

    def error(self, status: int, message: str | None = None) -> Reply:
        body = {"detail": message or self.canned.get(status, "Something went wrong")}
        if status not in self.types:
            return Reply.of(body, status)
        kind = self.types[status]
        return Reply.of({**body, "error_type": kind}, status, x_fal_error_type=kind)

    # Submit

    def submit(self, request: Request, app: str, mode: str) -> Reply:
        try:
            given = request.json()
        except ValueError as error:
            return _invalid([Problem("", "json_invalid", str(error))])
        if not isinstance(given, dict):
            return _invalid([Problem("", "dict_type", "Input should be a valid dictionary", given=given)])
        if self.settings["balance"] <= 0:
            self.refuse(403)
        found = problems(INPUTS[mode], given) + _size_problems(given.get("image_size", "landscape_4_3"))
        image = None
        if not found and "image_url" in given:
            try:
                image = self.input_image(given["image_url"])
            except ValueError as error:
                found.append(
                    Problem("image_url", "image", f"Could not load image from url: {error}", given=given["image_url"])
                )
        if found:
            return _invalid(found)
        return self._accepted(request, f"fal-ai/{app}/krea{mode}", given, image)

    def _accepted(self, request: Request, endpoint: str, given: dict, image) -> Reply:
        try:
            patience = float(request.headers.get("X-Fal-Request-Timeout", "inf"))
        except ValueError:
            self.refuse(422, "X-Fal-Request-Timeout must be a number of seconds")
        to_image = endpoint.endswith("/image-to-image")
        size = pictures.to_multiple_of_16(image.size) if to_image else _pixels(given.get("image_size", "landscape_4_3"))
        count = given.get("num_images", 1)
        job = self.accept(
            endpoint,
            given,
            count=count,
            safe=given.get("enable_safety_checker", True),
            usd=count * _megapixels(size) * PRICE_PER_MEGAPIXEL,
            seed=given.get("seed"),
            size=size,
            form=given.get("output_format", "jpeg"),
            quality=95,
            image=image and pictures.summary(image),
        )
        if patience < job.queue_seconds:
            job.deadline = job.accepted + patience
        return Reply.of(
            {"status": "IN_QUEUE", **self._urls(job), "queue_position": self._position(job)},
            200,
            x_fal_request_id=job.id,
        )

    @staticmethod
    def _urls(job: Job) -> dict:
        owner_and_app = "/".join(job.endpoint.split("/")[:2])
        base = f"{QUEUE}/{owner_and_app}/requests/{job.id}"
        return {
            "request_id": job.id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
        }

    @staticmethod
    def _position(job: Job) -> int:
        """0-based; a queue of three drains evenly."""
        return max(0, math.ceil(3 * (job.started - time.time()) / max(job.queue_seconds, 1e-9)) - 1)

    # Poll, result, cancel

    def _job(self, app: str, job_id: str) -> Job:
        job = self.job(job_id)
        if not job.endpoint.startswith(f"fal-ai/{app}/"):
            self.refuse(404)
        return job

    def status(self, request: Request, app: str, job_id: str) -> Reply:
        job = self._job(app, job_id)
        job.polls += 1
        stage, urls = job.stage(), self._urls(job)
        if stage == "queued":
            return Reply.of({"status": "IN_QUEUE", "queue_position": self._position(job), **urls}, 202)
        logs = self._logs(job) if request.query.get("logs") in ("1", "true") else None
        if stage == "running":
            return Reply.of({"status": "IN_PROGRESS", "logs": logs, **urls}, 202)
        body = {"status": "COMPLETED", "logs": logs, **urls, "metrics": {"inference_time": round(job.run_seconds, 3)}}
        outcome = self._outcome(job)
        if outcome.status != 200:
            reason = self._failure(job)
            body |= {"error": reason[1], "error_type": reason[2]}
        return Reply.of(body)

    @staticmethod
    def _logs(job: Job) -> list[dict]:
        done = int(job.share_done() * 4)
        steps = job.input.get("num_inference_steps", 28)
        words = [
            "Preparing the model",
            *(f"{25 * quarter}%| | {steps * quarter // 4}/{steps}" for quarter in range(1, done + 1)),
        ]
        return [{"timestamp": iso(job.started), "level": "INFO", "source": "app", "message": text} for text in words]

    def _failure(self, job: Job) -> tuple[int, str, str] | None:
        """Status, words and type of what went wrong with a job that is over."""
        if job.stopped < float("inf"):
            if job.deadline < job.cancelled:
                return 504, "Request timed out before a runner picked it up", "request_timeout"
            return 499, "Request was cancelled by the client", "client_cancelled"
        if job.fails("failed"):
            status = job.fate.options.get("status", 500)
            return (
                status,
                job.fate.options.get("message", "The model crashed"),
                self.types.get(status, "content_policy_violation"),
            )
        return None

    def result(self, request: Request, app: str, job_id: str) -> Reply:
        job = self._job(app, job_id)
        if job.stage() in ("queued", "running"):
            self.refuse(400, "Request is still in progress")
        return self._outcome(job)

    def _outcome(self, job: Job) -> Reply:
        """What the model answered, replayed."""
        failure = self._failure(job)
        if failure and failure[0] == 422:
            return _invalid([Problem("prompt", "content", failure[1], given=job.prompt)])
        if failure:
            reply = self.error(failure[0], failure[1])
            if failure[0] == 504:
                reply.headers["X-Fal-Request-Timeout-Type"] = "user"
            return reply
        units = _megapixels(job.size) * len(job.blocked)
        return Reply.of(self._output(job), 200, x_fal_request_id=job.id, x_fal_billable_units=str(units))

    def _output(self, job: Job) -> dict:
        return {
            "images": [self._image(job, index) for index in range(len(job.blocked))],
            "timings": {"inference": round(job.run_seconds, 3)},
            "seed": job.seed,
            "has_nsfw_concepts": list(job.blocked),
            "prompt": job.prompt,
        }

    def _image(self, job: Job, index: int) -> dict:
        url = self.picture_url(job, index)
        if job.input.get("sync_mode"):
            url = pictures.data_uri(self.picture_bytes(job, index), job.form)
        return {"url": url, "width": job.size[0], "height": job.size[1], "content_type": pictures.MIME[job.form]}

    def cancel(self, request: Request, app: str, job_id: str) -> Reply:
        if job_id not in self.jobs:
            return Reply.of({"status": "NOT_FOUND"}, 404)
        job = self._job(app, job_id)
        if job.stage() in ("done", "stopped"):
            return Reply.of({"status": "ALREADY_COMPLETED"}, 400)
        self.stop(job)
        return Reply.of({"status": "CANCELLATION_REQUESTED"}, 202)

    # History

    def list(self, request: Request) -> Reply:
        query = request.query
        allowed = {"endpoint_id", "limit", "cursor", "start", "end", "status", "request_id", "expand", "sort_by"}
        try:
            limit, page = int(query.get("limit", 50)), int(query.get("cursor") or 0)
            start = moment_of(query["start"]) if "start" in query else time.time() - 24 * 3600
            end = moment_of(query["end"]) if "end" in query else float("inf")
        except ValueError as error:
            self.refuse(400, str(error))
        if "endpoint_id" not in query or not 1 <= limit <= 100 or query.keys() - allowed:
            self.refuse(400, "endpoint_id is required, limit is 1 to 100, unknown parameters are refused")
        endpoints = query["endpoint_id"].split(",")
        matching = [job for job in self.all_jobs() if job.endpoint in endpoints and start <= job.accepted < end]
        if not self.settings["lists_unfinished"]:
            matching = [job for job in matching if job.stage() in ("done", "stopped")]
        if "request_id" in query:
            matching = [job for job in matching if job.id == query["request_id"]]
        matching.sort(key=lambda job: min(job.ended, job.stopped), reverse=True)
        shown, more = matching[page * limit : (page + 1) * limit], len(matching) > (page + 1) * limit
        items = [self._listed(job, "payloads" in query.get("expand", "")) for job in shown]
        return Reply.of({"items": items, "next_cursor": str(page + 1) if more else None, "has_more": more})

    def _listed(self, job: Job, payloads: bool) -> dict:
        end = min(job.ended, job.stopped)
        item = {
            "request_id": job.id,
            "endpoint_id": job.endpoint,
            "sent_at": iso(job.accepted),
            "started_at": iso(job.started),
        }
        if job.stage() in ("done", "stopped"):
            item |= {
                "ended_at": iso(end),
                "status_code": self._outcome(job).status,
                "duration": round(end - job.started, 3),
            }
        if payloads:
            item["json_input"] = job.input
            if "status_code" in item and not job.input.get("sync_mode"):
                item["json_output"] = self._output(job) if item["status_code"] == 200 else None
        return item


def _invalid(found: list[Problem]) -> Reply:
    return Reply.of({"detail": [_detail(problem) for problem in found]}, 422)


def _detail(problem: Problem) -> dict:
    kind, limit_name = RULES.get(
        problem.rule, (f"{problem.limit}_type" if problem.rule == "type" else problem.rule, None)
    )
    loc = ["body", *problem.name.split(".")] if problem.name else ["body"]
    detail = {
        "loc": loc,
        "msg": problem.message,
        "type": kind,
        "url": f"https://docs.fal.ai/errors/#{kind}",
        "input": problem.given,
    }
    return {**detail, "ctx": {limit_name: problem.limit}} if limit_name else detail


def _size_problems(size: object) -> list[Problem]:
    if isinstance(size, str):
        return (
            []
            if size in PRESETS
            else [Problem("image_size", "enum", f"Input should be one of {', '.join(PRESETS)}", list(PRESETS), size)]
        )
    if not isinstance(size, dict):
        return [Problem("image_size", "type", "Input should be a preset or a width and a height", "dict", size)]
    found = [
        Problem(f"image_size.{each.name}", each.rule, each.message, each.limit, each.given)
        for each in problems({"width": SIDE, "height": SIDE}, size)
    ]
    if not found and size["width"] * size["height"] > 4 * MEGAPIXEL:
        found.append(Problem("image_size", "value_error", "Image size is limited to 4 megapixels", given=size))
    return found


def _pixels(size: str | dict) -> tuple[int, int]:
    return PRESETS[size] if isinstance(size, str) else (size["width"], size["height"])


def _megapixels(size: tuple[int, int]) -> int:
    return math.ceil(size[0] * size[1] / MEGAPIXEL)
