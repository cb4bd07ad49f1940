"""core.today: resells Replicate's model behind its own job API.

Read from its llms.txt and console documentation, which contradict each other: the setting `dialect` chooses `llms`
(job_id, completed, result) or `reference` (id, succeeded, output), `result_shape` how the pictures come. Error bodies
and refunds are undocumented: FastAPI's shape, and no refund but for a job that never started, are assumed.
"""

import json
import time
import uuid

from . import pictures
from .checks import Field, Problem, problems
from .messages import Reply, Request
from .provider import Job, Provider, Route, iso
from .replicate import ALL_BLOCKED, INPUT, MODEL, delivered_size, drawn_seed

USD_A_REQUEST = 0.045  # 45 credits
BODY = {
    "model": Field(required=True, choices=(MODEL,)),
    "input": Field("any", required=True),
    "is_public": Field("boolean"),
    "output_folder": Field(),
    "webhook_url": Field(),
}
WORDS = {
    "llms": {
        "queued": "pending",
        "running": "processing",
        "done": "completed",
        "failed": "failed",
        "stopped": "cancelled",
    },
    "reference": {
        "queued": "pending",
        "running": "processing",
        "done": "succeeded",
        "failed": "failed",
        "stopped": "cancelled",
    },
}


class CoreToday(Provider):
    name = "core_today"
    key = "test-key-core"
    key_variable = "CORE_API_KEY"
    routes = (
        Route("POST", "/v1/predictions", "submit", "create"),
        Route("POST", "/v1/predictions/upload", "submit", "create_with_file"),
        Route("GET", r"/v1/predictions/([\w-]+)", "poll", "get"),
        Route("DELETE", r"/v1/predictions/([\w-]+)", "cancel", "cancel"),
        Route("POST", "/v1/files/upload-url", "upload", "upload_url"),
        Route("POST", "/storage", "upload", "store", open=True),
    )
    unbilled_fates = ()
    bad_body_status = 422
    defaults = {
        "picture_lifetime": 3600.0,
        "dialect": "llms",
        "result_shape": "list",  # or "string", "dict"
    }
    canned = {
        401: "Invalid or missing API key",
        402: "Insufficient credits",
        403: "Insufficient credits",
        404: "Not found",
        429: "Rate limit exceeded",
        500: "Internal server error",
    }

    def authorized(self, request: Request) -> bool:
        bearer = request.headers.get("Authorization") == f"Bearer {self.key}"
        return bearer or request.headers.get("X-API-Key") == self.key

    def error(self, status: int, message: str | None = None) -> Reply:
        return Reply.of({"detail": message or self.canned.get(status, "Something went wrong")}, status)

    # Create

    def create(self, request: Request) -> Reply:
        given = request.json()
        return self._create(given)

    def create_with_file(self, request: Request) -> Reply:
        parts = request.form()
        try:
            given = {part.name: part.data.decode() for part in parts if part.filename is None}
            given["input"] = json.loads(given["input"])
        except (ValueError, KeyError) as error:
            self.refuse(422, f"the form needs model, input as JSON text and file:image ({error})")
        files = [part for part in parts if part.filename is not None]
        if (
            [part.name for part in files] != ["file:image"]
            or not isinstance(given["input"], dict)
            or "image" in given["input"]
        ):
            self.refuse(422, "exactly one file part named file:image is required, and no input.image beside it")
        url = self._uploaded(files[0].data, files[0].filename)
        return self._create({**given, "input": {**given["input"], "image": url}})

    def _create(self, given: object) -> Reply:
        if not isinstance(given, dict):
            self.refuse(422, "Input should be a valid dictionary")
        found = problems(BODY, given)
        if not found and not isinstance(given["input"], dict):
            found = [Problem("input", "type", "Input should be a valid dictionary")]
        if found:
            return _invalid(found, ["body"])
        values, image = given["input"], None
        found = problems(INPUT, values)
        if not found and "image" in values:
            try:
                image = self.input_image(values["image"])
            except ValueError as error:
                found.append(Problem("image", "invalid", str(error)))
        if found:
            return _invalid(found, ["body", "input"])
        return Reply.of(self._body(self._accepted(values, image)))

    def _accepted(self, values: dict, image) -> Job:
        return self.accept(
            MODEL,
            values,
            count=values.get("num_outputs", 1),
            safe=not values.get("disable_safety_checker", False),
            usd=USD_A_REQUEST,
            seed=drawn_seed(values),
            size=delivered_size(values, image),
            form=values.get("output_format", "webp"),
            quality=values.get("output_quality", 80),
            image=image and pictures.summary(image),
        )

    # The job

    def _body(self, job: Job) -> dict:
        stage = job.stage()
        failed = stage == "done" and (job.fails("failed") or all(job.blocked))
        error = None
        if failed:
            error = (
                ALL_BLOCKED
                if all(job.blocked)
                else job.fate.options.get("message", "Provider error: the model crashed")
            )
        result = self._result(job) if stage == "done" and not failed else None
        status = WORDS[self.settings["dialect"]]["failed" if failed else stage]
        common = {"status": status, "model": MODEL, "created_at": iso(job.accepted), "error": error}
        if self.settings["dialect"] == "reference":
            times = {
                "total_time": job.queue_seconds + job.run_seconds,
                "queue_time": job.queue_seconds,
                "run_time": job.run_seconds,
            }
            return {"id": f"pred_{job.id}", **common, "output": result, "metrics": times if stage == "done" else None}
        return {"job_id": job.id, **common, "provider": "replicate", "result": result}

    def _result(self, job: Job):
        urls = [self.picture_url(job, index) for index, blocked in enumerate(job.blocked) if not blocked]
        return {"list": urls, "string": urls[0], "dict": {"images": [{"url": url} for url in urls]}}[
            self.settings["result_shape"]
        ]

    def get(self, request: Request, job_id: str) -> Reply:
        job = self.job(job_id.removeprefix("pred_"))
        job.polls += 1
        return Reply.of(self._body(job))

    def cancel(self, request: Request, job_id: str) -> Reply:
        job = self.job(job_id.removeprefix("pred_"))
        if job.stage() in ("done", "stopped"):
            self.refuse(400, "The job has already ended")
        self.stop(job)
        return Reply.of(self._body(job))

    # Files

    def _uploaded(self, data: bytes, name: str) -> str:
        url = f"https://files.core.today/inputs/{uuid.uuid4().hex}_{name}?signature=test"
        self.uploads[url] = data
        return url

    def upload_url(self, request: Request) -> Reply:
        given = request.json()
        if not isinstance(given, dict) or problems(
            {"filename": Field(required=True), "folder": Field(choices=("inputs",))}, given
        ):
            self.refuse(422, "filename is required, folder must be inputs")
        file_url = self._uploaded(b"", given["filename"])
        fields = {"key": file_url, "policy": "test"}
        body = {"upload_url": f"{self.standin.base_url}/storage", "upload_fields": fields, "file_url": file_url}
        return Reply.of(
            {**body, "object_key": file_url.split("/")[-1], "folder": "inputs", "expires_at": time.time() + 3600}
        )

    def store(self, request: Request) -> Reply:
        """The object store behind a presigned form: every field of it, the file last, and no key."""
        parts = request.form()
        names = [part.name for part in parts]
        if sorted(names[:-1]) != ["key", "policy"] or names[-1] != "file" or self.authorized(request):
            self.refuse(403, "the form must hold the upload_fields and then the file")
        url = next(part.data.decode() for part in parts if part.name == "key")
        if url not in self.uploads:
            self.refuse(403, "no such upload")
        self.uploads[url] = parts[-1].data
        return Reply(204)


def _invalid(found: list[Problem], where: list[str]) -> Reply:
    return Reply.of(
        {"detail": [{"loc": [*where, each.name], "msg": each.message, "type": each.rule} for each in found]}, 422
    )
