"""Replicate: predictions of black-forest-labs/flux-krea-dev, files, the list of predictions.

Read from Replicate's HTTP documentation and its public model source. The model's input table, its sizes and its
image-to-image rule are also those of the two providers that resell it.
"""

import hashlib
import json
import random
import re
import time
import uuid

from . import pictures
from .checks import Field, Problem, problems
from .messages import Part, Reply, Request
from .provider import Job, Provider, Route, iso, moment_of

MODEL = "black-forest-labs/flux-krea-dev"
API = "https://api.replicate.com/v1"
PRICE = 0.025
SIZES = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "21:9": (1536, 640),
    "9:21": (640, 1536),
    "3:4": (896, 1152),
    "4:3": (1152, 896),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
}
INPUT = {
    "prompt": Field(required=True),
    "aspect_ratio": Field(choices=tuple(SIZES)),
    "image": Field(),
    "prompt_strength": Field("number", 0, 1),
    "num_outputs": Field("integer", 1, 4),
    "num_inference_steps": Field("integer", 1, 50),
    "guidance": Field("number", 0, 10),
    "seed": Field("integer"),
    "output_format": Field(choices=("webp", "jpg", "png")),
    "output_quality": Field("integer", 0, 100),
    "disable_safety_checker": Field("boolean"),
    "go_fast": Field("boolean"),
    "megapixels": Field(choices=("1", "0.25")),
}
ALL_BLOCKED = "All generated images contained NSFW content. Try running it again with a different prompt."
STATUS = {"queued": "starting", "running": "processing"}
DURATION = re.compile(r"(\d+)([smh]?)")


def delivered_size(given: dict, image=None) -> tuple[int, int]:
    """The ratio table, or the input picture brought to at most 1440 a side and then to multiples of 16."""
    if image is not None:
        scale = min(1.0, 1440 / max(image.size))
        return pictures.to_multiple_of_16(tuple(side * scale for side in image.size))
    width, height = SIZES[given.get("aspect_ratio", "1:1")]
    return (width // 2, height // 2) if given.get("megapixels", "1") == "0.25" else (width, height)


def drawn_seed(given: dict) -> int:
    """The model takes seed 0 for "no seed" and draws 16 bits."""
    return given.get("seed") or random.getrandbits(16)


class Replicate(Provider):
    name = "replicate"
    key = "test-key-replicate"
    key_variable = "REPLICATE_API_TOKEN"
    routes = (
        Route("POST", rf"/v1/models/{MODEL}/predictions", "submit", "create"),
        Route("POST", "/v1/predictions", "submit", "create_versioned"),
        Route("GET", "/v1/predictions", "list", "list"),
        Route("GET", r"/v1/predictions/([\w-]+)", "poll", "get"),
        Route("POST", r"/v1/predictions/([\w-]+)/cancel", "cancel", "cancel"),
        Route("POST", "/v1/files", "upload", "upload"),
        Route("GET", "/v1/files", "list", "files_list"),
        Route("GET", r"/v1/files/([\w-]+)", "upload", "file"),
        Route("DELETE", r"/v1/files/([\w-]+)", "upload", "delete_file"),
        Route("GET", "/v1/account", "account", "account"),
        Route("GET", rf"/v1/models/{MODEL}", "account", "model"),
    )
    defaults = {
        "picture_lifetime": 3600.0,
        "longest_wait": 60.0,  # `Prefer: wait` ends after this at the latest
        "early_output": False,  # output filled while still processing
    }
    canned = {
        401: "You did not pass a valid authentication token",
        402: "You have insufficient credit to run this model. Purchase credit at https://replicate.com/account/billing.",
        403: "Forbidden",
        404: "The requested resource could not be found.",
        405: "Method not allowed",
        422: "The input is not valid",
        429: "Request was throttled. Your rate limit resets in ~1s.",
        500: "An internal error occurred",
    }
    titles = {401: "Unauthenticated", 402: "Insufficient credit", 404: "Not found", 422: "Input validation failed"}

    def forget(self):
        super().forget()
        self.files: dict[str, tuple[Part, dict]] = {}

    def authorized(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.key}"

    def error(self, status: int, message: str | None = None) -> Reply:
        body = {"detail": message or self.canned.get(status, "Something went wrong"), "status": status}
        if status == 429:
            return Reply.of({**body, "retry_after": 1}, status)
        return Reply.of({"title": self.titles.get(status, "Error"), **body}, status)

    # Create

    def create(self, request: Request) -> Reply:
        return self._create(request, {"input"})

    def create_versioned(self, request: Request) -> Reply:
        return self._create(request, {"input", "version"})

    def _create(self, request: Request, names: set[str]) -> Reply:
        given = request.json()
        if not isinstance(given, dict) or set(given) != names or not isinstance(given["input"], dict):
            self.refuse(422, f"The body must be an object with {' and '.join(sorted(names))}.")
        if given.get("version", MODEL) != MODEL:
            return Reply.of(
                {"title": "Invalid version or not permitted", "detail": "The version does not exist", "status": 422},
                422,
            )
        wait = self._wait(request)
        deadline = self._deadline(request)
        job = self._accepted(given["input"])
        job.deadline = job.accepted + deadline
        if wait and not job.fails("never_ends"):
            self.standin.wait(max(0.0, min(wait, job.ended - time.time())))
        return Reply.of(self._prediction(job), 201, Location=f"{API}/predictions/{job.id}")

    def _wait(self, request: Request) -> float:
        prefer = request.headers.get("Prefer", "")
        if not prefer:
            return 0.0
        match = re.fullmatch(r"wait(?:=(\d+))?", prefer)
        if not match or not 1 <= int(match[1] or 60) <= 60:
            self.refuse(400, "Prefer must be wait or wait=1 to wait=60")
        return min(float(match[1] or 60), self.settings["longest_wait"])

    def _deadline(self, request: Request) -> float:
        """Seconds of `Cancel-After`; infinity without it."""
        text = request.headers.get("Cancel-After")
        if text is None:
            return float("inf")
        match = DURATION.fullmatch(text)
        if not match or int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] < 5:
            self.refuse(422, "Cancel-After must be a duration of at least 5 seconds such as 15s or 1m")
        return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]

    def _accepted(self, given: dict) -> Job:
        found = problems(INPUT, given)
        image = None
        if not found and "image" in given:
            try:
                image = self.input_image(given["image"])
            except ValueError as error:
                found.append(Problem("image", "invalid", str(error)))
        if found:
            self.refuse(422, "\n".join(f"- input.{problem.name}: {problem.message}" for problem in found))
        count = given.get("num_outputs", 1)
        return self.accept(
            MODEL,
            given,
            count=count,
            safe=not given.get("disable_safety_checker", False),
            usd=PRICE * count,
            seed=drawn_seed(given),
            size=delivered_size(given, image),
            form=given.get("output_format", "webp"),
            quality=given.get("output_quality", 80),
            image=image and pictures.summary(image),
            id=uuid.uuid4().hex[:26],
        )

    # The prediction object

    def _status(self, job: Job) -> str:
        stage = job.stage()
        if stage == "stopped":
            return "aborted" if job.stopped_in_queue and job.deadline < job.cancelled else "canceled"
        if stage == "done":
            return "failed" if job.fails("failed") or all(job.blocked) else "succeeded"
        return STATUS[stage]

    def _prediction(self, job: Job, listed: bool = False) -> dict:
        status, over, removed = self._status(job), job.stage() in ("done", "stopped"), self.expired(job)
        error = None
        if status == "failed":
            error = (
                ALL_BLOCKED if all(job.blocked) else job.fate.options.get("message", "CUDA error: device-side assert")
            )
        url = f"{API}/predictions/{job.id}"
        body = {
            "id": job.id,
            "model": MODEL,
            "version": "hidden",
            "input": {} if removed else job.input,
            "logs": "" if removed or listed else self._logs(job),
            "output": None if removed else self._output(job, status),
            "error": error,
            "status": status,
            "created_at": iso(job.accepted),
            "started_at": iso(job.started) if not job.stopped_in_queue else None,
            "completed_at": iso(min(job.ended, job.stopped)),
            "data_removed": removed,
            "metrics": {"predict_time": job.run_seconds, "total_time": job.queue_seconds + job.run_seconds}
            if over
            else {},
            "urls": {"get": url, "cancel": f"{url}/cancel", "web": f"https://replicate.com/p/{job.id}"},
        }
        return {**body, "source": "api"} if listed else body

    def _output(self, job: Job, status: str) -> list[str] | None:
        if status != "succeeded" and not (self.settings["early_output"] and status == "processing"):
            return None
        return [self.picture_url(job, index) for index, blocked in enumerate(job.blocked) if not blocked]

    @staticmethod
    def _logs(job: Job) -> str:
        if job.stage() == "queued":
            return ""
        total = job.input.get("num_inference_steps", 28)
        done = int(job.share_done() * total)
        percent = 100 * done // total
        lines = [
            f"Using seed: {job.seed}",
            f"{percent:3d}%|{'█' * (percent // 10):10}| {done}/{total} [00:01<00:01, 10.00it/s]",
        ]
        if job.stage() == "done":
            lines += [f"NSFW content detected in image {index}" for index, blocked in enumerate(job.blocked) if blocked]
        return "\n".join(lines) + "\n"

    def get(self, request: Request, job_id: str) -> Reply:
        job = self.job(job_id)
        job.polls += 1
        return Reply.of(self._prediction(job))

    def cancel(self, request: Request, job_id: str) -> Reply:
        job = self.job(job_id)
        self.stop(job)
        return Reply.of(self._prediction(job))

    def list(self, request: Request) -> Reply:
        """Newest first, a hundred a page."""
        query = request.query
        if query.keys() - {"created_after", "created_before", "cursor", "source"}:
            self.refuse(400, f"unknown parameters in {sorted(query)}")
        try:
            after = moment_of(query["created_after"]) if "created_after" in query else 0.0
            before = moment_of(query["created_before"]) if "created_before" in query else float("inf")
            page = int(query.get("cursor", 0))
        except ValueError as error:
            self.refuse(400, str(error))
        matching = [job for job in reversed(self.all_jobs()) if after <= job.accepted < before]
        more = len(matching) > (page + 1) * 100
        shown = [self._prediction(job, listed=True) for job in matching[page * 100 : (page + 1) * 100]]
        return Reply.of(
            {"next": f"{API}/predictions?cursor={page + 1}" if more else None, "previous": None, "results": shown}
        )

    # Files

    def upload(self, request: Request) -> Reply:
        parts = {part.name: part for part in request.form()}
        if (
            "content" not in parts
            or parts["content"].filename is None
            or parts.keys() - {"content", "metadata", "type", "filename"}
        ):
            self.refuse(400, "Missing content")
        metadata = json.loads(parts["metadata"].data) if "metadata" in parts else {}
        file_id = uuid.uuid4().hex[:26]
        self.uploads[f"{API}/files/{file_id}"] = parts["content"].data
        self.files[file_id] = (parts["content"], metadata)
        return Reply.of(self._file(file_id), 201)

    def _file(self, file_id: str) -> dict:
        url = f"{API}/files/{file_id}"
        if url not in self.uploads:
            self.refuse(404)
        part, metadata = self.files[file_id]
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))
        return {
            "id": file_id,
            "name": part.filename,
            "content_type": part.content_type,
            "size": len(part.data),
            "etag": hashlib.md5(part.data).hexdigest(),
            "checksums": {"sha256": hashlib.sha256(part.data).hexdigest(), "md5": hashlib.md5(part.data).hexdigest()},
            "metadata": metadata,
            "created_at": iso(time.time()),
            "expires_at": expiry,
            "urls": {"get": url},
        }

    def file(self, request: Request, file_id: str) -> Reply:
        return Reply.of(self._file(file_id))

    def delete_file(self, request: Request, file_id: str) -> Reply:
        self._file(file_id)
        del self.uploads[f"{API}/files/{file_id}"]
        return Reply(204)

    def files_list(self, request: Request) -> Reply:
        kept = [self._file(file_id) for file_id in self.files if f"{API}/files/{file_id}" in self.uploads]
        return Reply.of({"next": None, "previous": None, "results": kept})

    def account(self, request: Request) -> Reply:
        return Reply.of({"type": "user", "username": "test", "name": "Test", "github_url": ""})

    def model(self, request: Request) -> Reply:
        return Reply.of({"owner": "black-forest-labs", "name": "flux-krea-dev", "latest_version": None})
