"""Lumenfall: a blocking, OpenAI-shaped gateway to fal and Replicate; estimates, balance and a request history.

Read from the model page and Lumenfall's API reference. What the gateway passes upstream is checked as the upstream
would: an unknown or out-of-range field there is an UPSTREAM_ERROR.
"""

import base64
import math
import re
import uuid

from . import pictures
from .checks import Field, from_text, problems
from .messages import Refusal, Reply, Request
from .provider import Job, Provider, Route, iso, moment_of
from .replicate import SIZES, delivered_size

PRICE = 0.025
GATEWAY = {
    "model": Field(required=True),
    "prompt": Field(required=True, longest=1000),
    "n": Field("integer", 1, 10),
    "size": Field(),
    "aspect_ratio": Field(),
    "resolution": Field(),
    "response_format": Field(choices=("url", "b64_json")),
    "output_format": Field(choices=("png", "jpeg", "gif", "webp", "avif")),
    "output_compression": Field("integer", 0, 100),
    "seed": Field("integer"),
    "user": Field(),
}
UPSTREAM = {
    "fal": {
        "num_inference_steps": Field("integer", 1, 50),
        "cfg_scale": Field("number", 1, 20),
        "strength": Field("number", 0.01, 1),
        "acceleration": Field(choices=("none", "regular", "high")),
        "enable_safety_checker": Field("boolean"),
        "sync_mode": Field("boolean"),
    },
    "replicate": {
        "num_inference_steps": Field("integer", 1, 50),
        "cfg_scale": Field("number", 0, 10),
        "strength": Field("number", 0, 1),
        "disable_safety_checker": Field("boolean"),
        "go_fast": Field("boolean"),
        "megapixels": Field(choices=("1", "0.25")),
        "output_quality": Field("integer", 0, 100),
    },
}
FAL_EDIT_STEPS = Field("integer", 10, 50)
MODELS = {  # model -> forced upstream, modes
    "flux.1-krea-dev": (None, ("generate", "edit")),
    "fal/flux.1-krea-dev": ("fal", ("generate",)),
    "fal/flux.1-krea-dev-edit": ("fal", ("edit",)),
    "replicate/flux.1-krea-dev": ("replicate", ("generate", "edit")),
}
ONE_K = {
    "4:3": (1183, 887),
    "4:5": (916, 1145),
    "5:4": (1145, 916),
    "1:1": (1024, 1024),
    "3:4": (887, 1182),
    "2:3": (836, 1254),
    "3:2": (1254, 836),
    "9:16": (768, 1365),
    "16:9": (1365, 768),
    "9:21": (670, 1564),
    "21:9": (1563, 670),
}
MOST_PIXELS_A_SIDE = 2048
CODES = {400: "INVALID_REQUEST", 401: "AUTHENTICATION_FAILED", 402: "INSUFFICIENT_BALANCE", 404: "MODEL_NOT_FOUND",
         429: "RATE_LIMITED", 502: "ALL_PROVIDERS_EXHAUSTED"}  # fmt: skip


class Lumenfall(Provider):
    name = "lumenfall"
    key = "test-key-lumenfall"
    key_variable = "LUMENFALL_API_KEY"
    routes = (
        Route("POST", "/openai/v1/images/generations", "submit", "generate"),
        Route("POST", "/openai/v1/images/edits", "submit", "edit"),
        Route("GET", "/v1/requests", "list", "list"),
        Route("GET", r"/v1/requests/(req_\w+)", "list", "listed"),
        Route("GET", "/v1/balance", "account", "balance"),
        Route("GET", "/openai/v1/models", "account", "models"),
    )
    unbilled_fates = ("failed", "nsfw")
    defaults = {
        "balance": 10.0,
        "billing_type": "prepaid",
        "picture_lifetime": 3600.0,
        "route": "fal",  # where the unforced model goes
        "error_in_200": False,  # a failed job answers 200 with an error inside
    }
    canned = {
        401: "Invalid API key",
        402: "Your balance is too low for this request",
        404: "The model does not exist",
        429: "Too many requests",
        502: "All providers failed to handle the request",
    }

    def authorized(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.key}"

    def error(self, status: int, message: str | None = None, code: str | None = None) -> Reply:
        code = code or CODES.get(status, "INTERNAL_ERROR" if status >= 500 else "INVALID_REQUEST")
        kind = "authentication_error" if status == 401 else "server_error" if status >= 500 else "invalid_request_error"
        words = message or self.canned.get(status, "The request could not be handled")
        return Reply.of({"error": {"message": words, "type": kind, "code": code}}, status)

    # Paid calls

    def generate(self, request: Request) -> Reply:
        given = request.json()
        if not isinstance(given, dict):
            self.refuse(400, "The body must be a JSON object")
        return self._run(request, "generate", given, None)

    def edit(self, request: Request) -> Reply:
        parts = request.form()
        texts = {part.name: part.data.decode() for part in parts if part.filename is None}
        files = [part for part in parts if part.filename is not None]
        if [part.name for part in files] != ["image"] or len(texts) != len(parts) - 1:
            self.refuse(400, "exactly one file part named image is required, and every field once")
        try:
            image = pictures.read_image(files[0].data)
        except ValueError as error:
            self.refuse(400, f"image: {error}")
        upstream = UPSTREAM[self._upstream(texts.get("model", ""))]
        return self._run(request, "edit", from_text({**GATEWAY, **upstream}, texts), image)

    def _upstream(self, model: str) -> str:
        return (MODELS.get(model) or (None,))[0] or self.settings["route"]

    def _run(self, request: Request, mode: str, given: dict, image) -> Reply:
        self._check(mode, given)
        upstream = self._upstream(given["model"])
        count = given.get("n", 1)
        if request.query.get("dryRun") == "true":
            return Reply.of(self._estimate(given["model"], upstream, count))
        if self.settings["billing_type"] == "prepaid" and self.settings["balance"] < PRICE * count:
            self.refuse(402)
        job = self._accepted(request, mode, given, image, upstream, count)
        self.finish(job)
        return self._outcome(job)

    def _check(self, mode: str, given: dict):
        gateway = problems(GATEWAY, {name: value for name, value in given.items() if name in GATEWAY})
        if gateway:
            self.refuse(400, "; ".join(f"{problem.name}: {problem.message}" for problem in gateway))
        if given["model"] not in MODELS:
            self.refuse(404, f"Model {given['model']!r} not found")
        if mode not in MODELS[given["model"]][1]:
            self.refuse(400, f"Model {given['model']!r} does not support this endpoint")
        if _size(given) is None:
            self.refuse(400, "size must be WxH with 1 to 14142 a side, or W:H; aspect_ratio must be W:H")
        upstream = self._upstream(given["model"])
        fields = dict(UPSTREAM[upstream])
        if upstream == "fal" and mode == "edit":
            fields["num_inference_steps"] = FAL_EDIT_STEPS
        if mode == "generate":
            del fields["strength"]
        beyond = problems(fields, {name: value for name, value in given.items() if name not in GATEWAY})
        if beyond:
            words = "; ".join(f"{problem.name}: {problem.message}" for problem in beyond)
            raise Refusal(self.error(422, f"{upstream}: {words}", "UPSTREAM_ERROR"))

    def _accepted(self, request: Request, mode: str, given: dict, image, upstream: str, count: int) -> Job:
        safe = given.get("enable_safety_checker", True) and not given.get("disable_safety_checker", False)
        if upstream == "replicate":
            size = delivered_size(
                {"aspect_ratio": _nearest(SIZES, _size(given)), "megapixels": given.get("megapixels", "1")}, image
            )
        else:
            size = pictures.to_multiple_of_16(image.size) if image else _clamped(_size(given))
        form = given.get("output_format", "png")
        return self.accept(
            f"/openai/v1/images/{'edits' if mode == 'edit' else 'generations'}",
            given,
            count=count,
            safe=safe,
            usd=PRICE * count,
            seed=given.get("seed"),
            size=size,
            form=form,
            quality=given.get("output_compression", given.get("output_quality", 90)),
            image=image and pictures.summary(image),
            id=f"req_{uuid.uuid4().hex[:27]}",
            extra={"upstream": upstream, "trace_id": _trace_id(request), "key_id": "test"},
        )

    def _outcome(self, job: Job) -> Reply:
        code, words = self._failure(job)
        if code and self.settings["error_in_200"]:
            return Reply.of(
                {"id": job.id, "data": [], "error": {"message": words, "type": "server_error", "code": code}}
            )
        if code:
            return self.error(400 if code == "CONTENT_POLICY_VIOLATION" else 502, words, code)
        body = {
            "id": job.id,
            "created": int(job.accepted),
            "size": f"{job.size[0]}x{job.size[1]}",
            "output_format": job.form,
            "data": [self._datum(job, index) for index in range(len(job.blocked))],
            "metadata": self._metadata(job),
        }
        return Reply.of(body, 200, X_Lumenfall_Provider=job.extra["upstream"], X_Lumenfall_Request_Id=job.id)

    @staticmethod
    def _failure(job: Job) -> tuple[str | None, str | None]:
        if any(job.blocked):
            return "CONTENT_POLICY_VIOLATION", "The provider's moderation refused this content"
        if job.fails("failed"):
            return "ALL_PROVIDERS_EXHAUSTED", job.fate.options.get("message", "All providers failed: upstream crashed")
        return None, None

    def _datum(self, job: Job, index: int) -> dict:
        if job.input.get("response_format") == "b64_json":
            return {"b64_json": base64.b64encode(self.picture_bytes(job, index)).decode()}
        return {"url": self.picture_url(job, index)}

    @staticmethod
    def _metadata(job: Job) -> dict:
        upstream = job.extra["upstream"]
        return {
            "model": job.input["model"],
            "executed_model": f"{upstream}/flux.1-krea-dev",
            "provider": upstream,
            "provider_name": {"fal": "fal.ai", "replicate": "Replicate"}[upstream],
            "cost": job.usd,
            "cost_currency": "USD",
            "attempts": [{"provider": upstream, "status": "success"}],
        }

    @staticmethod
    def _estimate(model: str, upstream: str, count: int) -> dict:
        quantity = {"quantity": count, "billable_quantity": count, "unit_price": PRICE, "total_cost": PRICE * count}
        return {
            "estimated": True,
            "model": model,
            "provider": upstream,
            "total_cost_micros": round(PRICE * 1e6) * count,
            "currency": "USD",
            "components": [{"type": "output", "metric": "image", **quantity}],
        }

    def is_billed(self, job: Job) -> bool:
        return not any(job.blocked) and super().is_billed(job)

    # Native API

    def list(self, request: Request) -> Reply:
        """Newest first. Prompts and pictures are not kept."""
        query = request.query
        allowed = {
            "limit",
            "starting_after",
            "ending_before",
            "created_after",
            "created_before",
            "key_id",
            "summary",
            "status",
        }
        try:
            limit = int(query.get("limit", 20))
            after = moment_of(query["created_after"]) if "created_after" in query else 0.0
            before = moment_of(query["created_before"]) if "created_before" in query else float("inf")
        except ValueError as error:
            self.refuse(400, str(error))
        if query.keys() - allowed or not 1 <= limit <= 100:
            self.refuse(400, "unknown parameter, or limit not 1 to 100")
        rows = [self._row(job) for job in reversed(self.all_jobs()) if after <= job.accepted <= before]
        rows = [row for row in rows if query.get("status", row["status"]) == row["status"]]
        ids = [row["id"] for row in rows]
        first = ids.index(query["starting_after"]) + 1 if query.get("starting_after") in ids else 0
        shown = rows[first : first + limit]
        more = len(rows) > first + limit
        following = f"/v1/requests?starting_after={shown[-1]['id']}&limit={limit}" if more else None
        return Reply.of({"object": "list", "data": shown, "next_page_url": following, "previous_page_url": None})

    def listed(self, request: Request, job_id: str) -> Reply:
        return Reply.of(self._row(self.job(job_id)))

    def _row(self, job: Job) -> dict:
        code, words = self._failure(job)
        over = job.stage() == "done"
        failed = {"CONTENT_POLICY_VIOLATION": "rejected"}.get(code, "upstream_failure") if code else "completed"
        return {
            "id": job.id,
            "object": "request",
            "created_at": iso(job.accepted),
            "model": job.input["model"],
            "modality": "image",
            "endpoint": job.endpoint,
            "status": failed if over else "processing",
            "cost": job.usd if over and self.is_billed(job) else 0,
            "currency": "usd",
            "duration_ms": round(1000 * (job.ended - job.accepted)) if over else None,
            "key_id": job.extra["key_id"],
            "error_code": code if over else None,
            "error_message": words if over else None,
            "session_id": None,
            "trace_id": job.extra["trace_id"],
            "user": job.input.get("user"),
            "request_size_bytes": 512,
            "response_size_bytes": 512,
        }

    def balance(self, request: Request) -> Reply:
        prepaid = self.settings["billing_type"] == "prepaid"
        amount = self.settings["balance"] if prepaid else None
        available = {"amount": amount, "currency": "usd"}
        return Reply.of({"object": "balance", "billing_type": self.settings["billing_type"], "available": available})

    def models(self, request: Request) -> Reply:
        return Reply.of({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})


def _size(given: dict) -> tuple[int, int] | None:
    """The pixels asked for; `size` wins over `aspect_ratio`. None when they cannot be read."""
    text = given.get("size", given.get("aspect_ratio", "1:1"))
    match = re.fullmatch(r"(\d+)(x|:)(\d+)", text)
    if not match or "0" in (match[1], match[3]) or (match[2] == "x" and "size" not in given):
        return None
    width, height = int(match[1]), int(match[3])
    if match[2] == ":":
        return ONE_K[_nearest(ONE_K, (width, height))]
    return (width, height) if max(width, height) <= 14142 else None


def _nearest(table: dict[str, tuple[int, int]], size: tuple[int, int]) -> str:
    return min(table, key=lambda ratio: abs(math.log(size[0] * table[ratio][1] / (size[1] * table[ratio][0]))))


def _clamped(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, MOST_PIXELS_A_SIDE / max(size))
    return tuple(max(1, round(side * scale)) for side in size)


def _trace_id(request: Request) -> str | None:
    """The second field of a W3C traceparent header."""
    fields = request.headers.get("traceparent", "").split("-")
    return fields[1] if len(fields) == 4 else None
