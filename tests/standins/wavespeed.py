"""WaveSpeed: predictions of flux-krea-dev-lora, uploads, prices, bills and the list of predictions.

Read from the model page and the common API pages. Where they are silent or disagree (unknown fields, refusals, refunds,
the shape of base64) a setting plays each. Nothing it is sent can be recognised in its list: the input is not shown there.
"""

import base64
import re
import time
import uuid

from . import pictures
from .checks import Field, Problem, problems
from .messages import Refusal, Reply, Request
from .provider import Job, Provider, Route, iso, moment_of

MODEL = "wavespeed-ai/flux-krea-dev-lora"
API = "https://api.wavespeed.ai/api/v3"
PRICE = 0.025
KEPT = 7 * 24 * 3600.0
SIZE = re.compile(r"(\d+)\*(\d+)")
INPUT = {
    "prompt": Field(required=True),
    "image": Field(),
    "size": Field(),
    "strength": Field("number", 0, 1),
    "guidance_scale": Field("number", 0, 20),
    "seed": Field("integer", -1, 2147483647),
    "loras": Field("any"),
    "output_format": Field(choices=("jpeg", "png", "webp")),
    "enable_base64_output": Field("boolean"),
    "enable_sync_mode": Field("boolean"),
}
DEFAULTS = {"size": "1024*1024", "strength": 0.8, "guidance_scale": 3.5, "seed": -1, "loras": [],
            "output_format": "jpeg", "enable_base64_output": False, "enable_sync_mode": False}  # fmt: skip
LORA = {"path": Field(required=True), "scale": Field("number", 0, 4, required=True)}
LISTED = {
    "page": Field("integer", 1),
    "page_size": Field("integer", 1, 100),
    "model": Field(),
    "status": Field(choices=("completed", "failed", "processing")),
    "created_after": Field(),
    "created_before": Field(),
}


class WaveSpeed(Provider):
    name = "wavespeed"
    key = "test-key-wavespeed"
    key_variable = "WAVESPEED_API_KEY"
    unbilled_fates = ("failed",)
    blackens = False
    bad_body_status = 400
    routes = (
        Route("POST", rf"/api/v3/{MODEL}", "submit", "create"),
        Route("GET", r"/api/v3/predictions/([\w-]+)/result", "poll", "get"),
        Route("GET", r"/api/v3/predictions/([\w-]+)", "poll", "get"),
        Route("DELETE", r"/api/v3/predictions/([\w-]+)", "list", "delete"),  # no cancel: it removes
        Route("POST", "/api/v3/predictions/delete", "list", "delete_several"),
        Route("POST", "/api/v3/predictions", "list", "list"),
        Route("POST", "/api/v3/media/uploads", "upload", "ticket"),
        Route("PUT", r"/storage/([\w.-]+)", "upload", "put", open=True),
        Route("POST", "/api/v3/media/upload/binary", "upload", "binary"),
        Route("POST", "/api/v3/model/pricing", "account", "pricing"),
        Route("POST", "/api/v3/model/price", "account", "price"),
        Route("POST", "/api/v3/billings/search", "account", "billings"),
        Route("GET", "/api/v3/balance", "account", "balance"),
        Route("GET", "/api/v3/account/balance", "account", "old_balance"),
    )
    defaults = {
        "balance": 10.0,
        "picture_lifetime": KEPT,
        "refuses_unknown": True,  # or ignores what it does not know, and never honours it
        "refuses_late": False,  # a bad value is a failed task 1401 instead of a 400
        "nsfw_fails": False,  # a flagged picture ends the task with 1200 instead of being delivered
        "nsfw_told": True,  # has_nsfw_contents may be missing
        "base64_form": "bare",  # or "uri"
        "lists_input": False,
        "refunds_deleted": False,
        "pricing_paths": ("pricing", "price"),
        "balance_paths": ("new", "old"),
        "bills_after": 0.0,  # seconds until a bill can be found
        "longest_wait": 60.0,  # of the synchronous mode
        "sync_timeout": "5004",  # or "504", which carries no id
        "submits_a_minute": None,  # 2 at the lowest level
        "end_word": None,  # a state that a job ends in instead: cancelled, timeout, or one nobody knows
    }
    canned = {
        401: "Unauthorized: invalid API key",
        402: "Insufficient balance, please top up",
        403: "Your key's role lacks the permission for this",
        404: "not found",
        429: "Too many requests: rate limit of your level exceeded",
        500: "internal server error",
        504: "gateway timeout",
    }

    def forget(self):
        super().forget()
        self.deleted: set[str] = set()

    def authorized(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.key}"

    def error(self, status: int, message: str | None = None) -> Reply:
        return Reply.of({"code": status, "message": message or self.canned.get(status, "request failed")}, status)

    @staticmethod
    def _envelope(data: object) -> Reply:
        return Reply.of({"code": 200, "message": "success", "data": data})

    def with_status(self, body: dict, word: str) -> dict:
        return {**body, "data": {**body["data"], "status": word}}

    def _object(self, request: Request) -> dict:
        given = request.json()
        if not isinstance(given, dict):
            self.refuse(400, "the body must be a JSON object")
        return given

    # Create

    def create(self, request: Request) -> Reply:
        if request.query.keys() - {"webhook"}:
            self.refuse(400, f"unknown parameters {sorted(request.query)}")
        given = self._object(request)
        if self.settings["balance"] <= 0:
            self.refuse(402)
        self._count()
        found, image = self._checked(given)
        if found and not (self.settings["refuses_late"] and "prompt" in given):
            self.refuse(400, "; ".join(f"{each.name}: {each.message}" for each in found))
        job = self._accepted({name: value for name, value in given.items() if name in INPUT}, image, found)
        if given.get("enable_sync_mode"):
            return self._waited(job)
        return self._envelope(self._prediction(job))

    def _count(self):
        most, now = self.settings["submits_a_minute"], time.time()
        if most is not None and sum(job.accepted > now - 60 for job in self.all_jobs()) >= most:
            self.refuse(429)

    def _checked(self, given: dict) -> tuple[list[Problem], pictures.Image.Image | None]:
        found = [each for each in problems(INPUT, given) if each.rule != "unknown" or self.settings["refuses_unknown"]]
        if not found and "size" in given and not _sides(given["size"]):
            found.append(Problem("size", "invalid", "must be W*H with 256 to 1536 a side", given=given["size"]))
        if not found and "loras" in given:
            found += _wrong_loras(given["loras"])
        image = None
        if not found and "image" in given:
            try:
                image = self.input_image(given["image"])
            except ValueError as error:
                found.append(Problem("image", "media", str(error)))
        return found, image

    def input_image(self, reference: str) -> pictures.Image.Image:
        """Base64 is not documented for this model: an address, of an upload or not, is."""
        if not reference.startswith("https://"):
            raise ValueError("image must be an https address")
        return super().input_image(reference)

    def _accepted(self, given: dict, image, wrong: list[Problem]) -> Job:
        filled = {**DEFAULTS, **given}
        drawn = filled["seed"] if isinstance(filled["seed"], int) and filled["seed"] >= 0 else None
        return self.accept(
            MODEL,
            given,
            count=1,
            safe=True,
            usd=PRICE,
            seed=drawn,
            size=_sides(filled["size"]) or (1024, 1024),
            form=filled["output_format"] if filled["output_format"] in pictures.MIME else "jpeg",
            quality=90,
            image=image and pictures.summary(image),
            id=uuid.uuid4().hex,
            extra={"filled": filled, "wrong": [f"{each.name}: {each.message}" for each in wrong],
                   "code": 1402 if wrong and wrong[0].rule == "media" else 1401},
        )  # fmt: skip

    def _waited(self, job: Job) -> Reply:
        left = job.ended - time.time()
        if left <= self.settings["longest_wait"]:
            self.standin.wait(max(0.0, left))
            return self._envelope(self._prediction(job))
        self.standin.wait(self.settings["longest_wait"])
        if self.settings["sync_timeout"] == "504":
            self.refuse(504)
        words = "Sync mode timed out, query the result later"
        return self._envelope({**self._prediction(job), "status": "processing", "code": 5004, "error": words})

    # The prediction

    def _outcome(self, job: Job) -> tuple[str, int | None, str]:
        """Status word, code and words of a job as it stands."""
        stage = job.stage()
        if stage in ("queued", "running"):
            return ("created" if stage == "queued" else "processing"), None, ""
        if stage == "stopped":
            return "cancelled", None, "The prediction was deleted"
        if self.settings["end_word"]:
            return self.settings["end_word"], None, "the prediction ended"
        if job.extra["wrong"]:
            return "failed", job.extra["code"], "; ".join(job.extra["wrong"])
        if job.fails("failed"):
            return "failed", job.fate.options.get("code", 1403), job.fate.options.get("message", "the task failed")
        if self.settings["nsfw_fails"] and all(job.blocked):
            return "failed", 1200, "The content was flagged by moderation (NSFW)"
        return "completed", None, ""

    def is_billed(self, job: Job) -> bool:
        """Failed, timed-out and refused tasks are refunded by themselves."""
        if job.id in self.deleted:
            return not self.settings["refunds_deleted"]
        status = self._outcome(job)[0]
        return status not in ("failed", "timeout") and super().is_billed(job)

    def _prediction(self, job: Job, listed: bool = False) -> dict:
        status, code, words = self._outcome(job)
        done = status == "completed"
        body = {
            "id": job.id,
            "model": MODEL,
            "input": dict(job.extra["filled"]),
            "outputs": [self._output(job)] if done else [],
            "urls": {"get": f"{API}/predictions/{job.id}/result"},
            "status": status,
            "created_at": iso(job.accepted),
            "error": words,
            "executionTime": round(1000 * job.run_seconds) if done else 0,
            "timings": {"inference": round(1000 * job.run_seconds) if done else 0},
        }
        if self.settings["nsfw_told"]:
            body["has_nsfw_contents"] = list(job.blocked) if done else []
        if code is not None:
            body["code"] = code
        if listed and not self.settings["lists_input"]:
            del body["input"]
        return body

    def _output(self, job: Job) -> str:
        if not job.input.get("enable_base64_output"):
            return self.picture_url(job, 0)
        data = self.picture_bytes(job, 0)
        bare = base64.b64encode(data).decode()
        return bare if self.settings["base64_form"] == "bare" else pictures.data_uri(data, job.form)

    def _kept(self, job_id: str) -> Job:
        job = self.job(job_id)
        if job_id in self.deleted or self.expired(job):
            self.refuse(404)
        return job

    def get(self, request: Request, job_id: str) -> Reply:
        job = self._kept(job_id)
        job.polls += 1
        return self._envelope(self._prediction(job))

    def delete(self, request: Request, job_id: str) -> Reply:
        """Removes the record; the bill stays."""
        self._remove(self._kept(job_id))
        return self._envelope({"deleted_count": 1})

    def delete_several(self, request: Request) -> Reply:
        ids = self._object(request).get("ids")
        if not isinstance(ids, list):
            self.refuse(400, "ids is required")
        found = [self.jobs[each] for each in ids if each in self.jobs and each not in self.deleted]
        for job in found:
            self._remove(job)
        return self._envelope({"deleted_count": len(found)})

    def _remove(self, job: Job):
        self.deleted.add(job.id)
        self.stop(job)

    def list(self, request: Request) -> Reply:
        """Newest first. A job that was only created is in no status filter."""
        given = self._object(request)
        found = problems(LISTED, given)
        if found:
            self.refuse(400, f"{found[0].name}: {found[0].message}")
        try:
            after = moment_of(given["created_after"]) if "created_after" in given else 0.0
            before = moment_of(given["created_before"]) if "created_before" in given else float("inf")
        except ValueError as error:
            self.refuse(400, str(error))
        matching = [
            job
            for job in reversed(self.all_jobs())
            if job.id not in self.deleted
            and not self.expired(job)
            and after <= job.accepted < before
            and given.get("model", MODEL) == MODEL
            and given.get("status", self._outcome(job)[0]) == self._outcome(job)[0]
        ]
        page, size = given.get("page", 1), given.get("page_size", 20)
        shown = matching[(page - 1) * size : page * size]
        items = [self._prediction(job, listed=True) for job in shown]
        return self._envelope({"page": page, "page_size": size, "total": len(matching), "items": items})

    # Uploads

    def ticket(self, request: Request) -> Reply:
        fields = {"filename": Field(required=True), "size": Field("integer", 1, required=True), "content_type": Field()}
        given = self._object(request)
        found = problems(fields, given)
        if found:
            self.refuse(400, f"{found[0].name}: {found[0].message}")
        name = f"{uuid.uuid4().hex}.{given['filename'].rsplit('.', 1)[-1]}"
        upload = {
            "method": "PUT",
            "url": f"{self.standin.base_url}/storage/{name}",
            "headers": {"Content-Type": given.get("content_type", "application/octet-stream")},
        }
        self.uploads[_address(name)] = b""
        return self._envelope({"upload": upload, "download_url": _address(name)})

    def put(self, request: Request, name: str) -> Reply:
        if "Authorization" in request.headers or _address(name) not in self.uploads:
            self.refuse(403, "SignatureDoesNotMatch")
        self.uploads[_address(name)] = request.body
        return Reply(200)

    def binary(self, request: Request) -> Reply:
        parts = request.form()
        if [part.name for part in parts] != ["file"] or not parts[0].filename:
            self.refuse(400, "exactly one file part named file is required")
        name = f"{uuid.uuid4().hex}.{parts[0].filename.rsplit('.', 1)[-1]}"
        self.uploads[_address(name)] = parts[0].data
        kind = {"type": "image", "download_url": _address(name), "filename": parts[0].filename}
        return self._envelope({**kind, "size": len(parts[0].data)})

    # Money

    def pricing(self, request: Request) -> Reply:
        self._priced(request, "pricing")
        return self._envelope({"model_id": MODEL, "unit_price": PRICE, "currency": "USD"})

    def price(self, request: Request) -> Reply:
        self._priced(request, "price")
        told = {"price": PRICE, "discounted_price": PRICE, "discount_rate": 0, "currency": "USD"}
        return self._envelope({"model_id": MODEL, **told})

    def _priced(self, request: Request, path: str):
        given = self._object(request)
        if path not in self.settings["pricing_paths"] or given.get("model_id") != MODEL:
            self.refuse(404)
        if given.keys() != {"model_id", "inputs"} or not isinstance(given["inputs"], dict):
            self.refuse(400, "model_id and inputs are required")

    def billings(self, request: Request) -> Reply:
        given = self._object(request)
        wanted = given.get("prediction_uuids")
        if not isinstance(wanted, list) or given.keys() - {"prediction_uuids", "page", "page_size"}:
            self.refuse(400, "prediction_uuids is required")
        until = time.time() - self.settings["bills_after"]
        bills = [job for job in self.all_jobs() if job.id in wanted and job.ended <= until]
        items = [
            {"uuid": uuid.uuid4().hex, "price": job.usd if self.is_billed(job) else 0.0, "billing_type": "deduct",
             "order": {"state": "paid" if self.is_billed(job) else "refunded"}, "prediction": {"uuid": job.id}}
            for job in bills
        ]  # fmt: skip
        return self._envelope({"page": 1, "total": len(items), "items": items})

    def balance(self, request: Request) -> Reply:
        return self._balance("new")

    def old_balance(self, request: Request) -> Reply:
        return self._balance("old")

    def _balance(self, path: str) -> Reply:
        if path not in self.settings["balance_paths"]:
            raise Refusal(self.error(404))
        return self._envelope({"balance": self.settings["balance"]})


def _address(name: str) -> str:
    return f"https://test.cloudfront.net/media/{name}"


def _sides(size: object) -> tuple[int, int] | None:
    match = SIZE.fullmatch(size) if isinstance(size, str) else None
    if not match or not all(256 <= int(side) <= 1536 for side in match.groups()):
        return None
    return int(match[1]), int(match[2])


def _wrong_loras(loras: object) -> list[Problem]:
    if not isinstance(loras, list) or len(loras) > 3:
        return [Problem("loras", "invalid", "must be a list of at most 3")]
    found = []
    for item in loras:
        if isinstance(item, dict):
            found += [Problem(f"loras.{each.name}", each.rule, each.message) for each in problems(LORA, item)]
        else:
            found.append(Problem("loras", "type", "must hold objects with path and scale"))
    return found
