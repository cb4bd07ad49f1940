"""fal: a queue for FLUX.1 Krea [dev] with its image-to-image and Redux, and for the app that takes LoRAs and masks.

Read from the model pages and fal's queue, error and platform documentation. Where those are silent the stand-in takes
the stricter reading, or plays both by a setting.
"""

import math
import re
import time

from . import pictures
from .checks import Problem
from .fal_apps import APPS, megapixels, pixels, wrong_fields
from .fal_services import SERVICE_ROUTES, FalServices
from .messages import Refusal, Reply, Request
from .provider import Job, Route, iso, moment_of

QUEUE = "https://queue.fal.run"
HUGGING_FACE_ID = re.compile(r"[\w.-]+/[\w.-]+")
RULES = {  # our words for a broken rule -> pydantic's type and the name of its limit in ctx
    "missing": ("missing", None),
    "unknown": ("extra_forbidden", None),
    "enum": ("literal_error", "expected"),
    "low": ("greater_than_equal", "ge"),
    "high": ("less_than_equal", "le"),
    "image": ("image_load_error", None),
    "lora": ("file_download_error", None),
    "content": ("content_policy_violation", None),
}


class Fal(FalServices):
    name = "fal"
    key = "test-key-fal:0123"
    key_variable = "FAL_KEY"
    app = r"/(fal-ai/flux|fal-ai/flux-1|fal-ai/flux-krea-lora)/requests/([\w-]+)"
    routes = (
        *SERVICE_ROUTES,
        Route("POST", r"/(fal-ai/flux/krea|fal-ai/flux-1/krea)(/image-to-image|/redux|)", "submit", "submit"),
        Route("POST", r"/(fal-ai/flux-krea-lora)(/image-to-image|/inpainting|)", "submit", "submit"),
        Route("GET", app + "/status", "poll", "status"),
        Route("GET", app, "result", "result"),
        Route("PUT", app + "/cancel", "cancel", "cancel"),
        Route("GET", "/v1/models/requests/by-endpoint", "list", "list"),
    )
    defaults = {
        "balance": 10.0,
        # The documentation sorts the list by end time; whether it shows a request before its end it does not say.
        "lists_unfinished": False,
        "lists_after": 0.0,  # seconds after its end
        "safety_authorised": False,  # whether flux-krea-lora lets this account switch its checker off
        "whole_megapixels": True,  # rounded up, or billed as they are
        "mask_of_another_size": "refused",  # or "resized"
        "dead_loras": (),  # paths that nobody can download
        "concurrency": None,  # jobs at once; one more is a 429
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
        busy = sum(job.stage() in ("queued", "running") for job in self.all_jobs())
        if self.settings["concurrency"] is not None and busy >= self.settings["concurrency"]:
            raise Refusal(self._too_many(busy))
        found = wrong_fields(APPS[app].modes[mode], given)
        images = {} if found else self._images(given, found)
        if found:
            return _invalid(found)
        return self._accepted(request, app, mode, given, images)

    @staticmethod
    def _too_many(busy: int) -> Reply:
        body = {"detail": f"Too many requests: {busy} in progress", "error_type": "concurrent_requests_limit"}
        return Reply.of(body, 429, X_Fal_needs_retry="1")

    def _images(self, given: dict, found: list[Problem]) -> dict:
        """The pictures behind the addresses of a request; adds to `found` what cannot be loaded."""
        images = {}
        for name in ("image_url", "mask_url"):
            if name in given:
                try:
                    images[name] = self.input_image(given[name])
                except ValueError as error:
                    found.append(Problem(name, "image", f"Could not load image from url: {error}", given=given[name]))
        same = len({image.size for image in images.values()}) < 2
        if not same and self.settings["mask_of_another_size"] == "refused":
            found.append(Problem("mask_url", "value_error", "The mask has another size than the image"))
        return images

    def _accepted(self, request: Request, app: str, mode: str, given: dict, images: dict) -> Reply:
        try:
            patience = float(request.headers.get("X-Fal-Request-Timeout", "inf"))
        except ValueError:
            self.refuse(422, "X-Fal-Request-Timeout must be a number of seconds")
        image, mask = images.get("image_url"), images.get("mask_url")
        filled = {**APPS[app].modes[mode].defaults, **given}
        size = pixels(filled["image_size"]) if "image_size" in filled else pictures.to_multiple_of_16(image.size)
        may_disable = APPS[app].disables_safety or self.settings["safety_authorised"]
        count = filled["num_images"]
        job = self.accept(
            app + mode,
            given,
            count=count,
            safe=filled["enable_safety_checker"] or not may_disable,
            usd=count * self._megapixels(size) * APPS[app].usd_per_megapixel,
            seed=given.get("seed"),
            size=size,
            form=filled["output_format"],
            quality=95,
            image=image and pictures.summary(image),
            canvas=pictures.Canvas(image, mask) if mask else None,
            extra={"filled": filled, "app": APPS[app].jobs},
        )
        if patience < job.queue_seconds:
            job.deadline = job.accepted + patience
        return Reply.of(
            {"status": "IN_QUEUE", **self._urls(job), "queue_position": self._position(job)},
            200,
            x_fal_request_id=job.id,
        )

    def _megapixels(self, size: tuple[int, int]) -> float:
        return megapixels(size, self.settings["whole_megapixels"])

    def _job_state(self, job: Job) -> dict:
        return {**super()._job_state(job), "filled": job.extra["filled"]}

    @staticmethod
    def _urls(job: Job) -> dict:
        base = f"{QUEUE}/{job.extra['app']}/requests/{job.id}"
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
        if job.extra["app"] != app:
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
        if self._dead_loras(job):
            return 422, f"Could not download the LoRA {self._dead_loras(job)[0]}", "file_download_error"
        return None

    def _dead_loras(self, job: Job) -> list[str]:
        """Those that are no https address and no Hugging Face id, and those that a test says are gone."""
        paths = [item["path"] for item in job.input.get("loras", [])]
        return [
            path
            for path in paths
            if path in self.settings["dead_loras"]
            or not (path.startswith("https://") or HUGGING_FACE_ID.fullmatch(path))
        ]

    def result(self, request: Request, app: str, job_id: str) -> Reply:
        job = self._job(app, job_id)
        if job.stage() in ("queued", "running"):
            self.refuse(400, "Request is still in progress")
        return self._outcome(job)

    def _outcome(self, job: Job) -> Reply:
        """What the model answered, replayed."""
        failure = self._failure(job)
        if failure and failure[0] == 422:
            rule, name = ("lora", "loras") if failure[2] == "file_download_error" else ("content", "prompt")
            return _invalid([Problem(name, rule, failure[1], given=job.input.get(name))])
        if failure:
            reply = self.error(failure[0], failure[1])
            if failure[0] == 504:
                reply.headers["X-Fal-Request-Timeout-Type"] = "user"
            return reply
        units = self._megapixels(job.size) * len(job.blocked)
        return Reply.of(self._output(job), 200, x_fal_request_id=job.id, x_fal_billable_units=f"{units:g}")

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
            until = time.time() - self.settings["lists_after"]
            matching = [job for job in matching if min(job.ended, job.stopped) <= until]
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
