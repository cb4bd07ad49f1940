"""1min.ai: one blocking call, an asset upload, a list of models.

Read from its model page and asset documentation. Error bodies, credits and what a blocked picture costs are
undocumented: NestJS's error shape, a nominal price, and payment for a blocked picture are assumed.
"""

import uuid

from . import pictures
from .checks import Field, problems
from .messages import Reply, Request
from .provider import Job, Provider, Route, iso
from .replicate import ALL_BLOCKED, MODEL, delivered_size

NOMINAL_USD = 0.03
RATIOS = ("1:1", "16:9", "9:16", "3:2", "2:3", "4:5", "5:4", "custom")
BODY = {
    "type": Field(required=True, choices=("IMAGE_GENERATOR",)),
    "model": Field(required=True, choices=(MODEL,)),
    "promptObject": Field("any", required=True),
}
PROMPT_OBJECT = {
    "prompt": Field(required=True),
    "image_prompt": Field(),
    "aspect_ratio": Field(choices=RATIOS),
    "prompt_strength": Field("number", 0, 1),
    "num_inference_steps": Field("integer", 1, 50),
    "guidance": Field("number", 0, 50),
    "seed": Field("integer", 0, 4294967295),
    "output_quality": Field("integer", 0, 100),
    "disable_safety_checker": Field("boolean"),
    "go_fast": Field("boolean"),
    "megapixels": Field(choices=("0.25", "1")),
}
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found"}


class OneMin(Provider):
    name = "one_min"
    key = "test-key-1min"
    key_variable = "ONEMIN_API_KEY"
    routes = (
        Route("POST", "/api/features", "submit", "generate"),
        Route("POST", "/api/assets", "upload", "upload"),
        Route("GET", "/models", "account", "models", open=True),
    )
    defaults = {
        "picture_lifetime": 7 * 86400.0,
        "address": "temporary",  # or "result": no temporaryUrl, the address stands in resultObject; "none": neither
        "asset_without_content": False,  # an upload answer that lacks fileContent
        "created": False,  # 201 instead of 200
    }
    canned = {
        400: "The request is not valid",
        401: "Invalid API key",
        402: "Insufficient credits",
        403: "Insufficient credits",
        404: "Not found",
        429: "Too many requests",
        500: "Internal server error",
    }

    def authorized(self, request: Request) -> bool:
        return request.headers.get("API-KEY") == self.key

    def error(self, status: int, message: str | None = None) -> Reply:
        words = message or self.canned.get(status, "Something went wrong")
        return Reply.of({"statusCode": status, "message": words, "error": TITLES.get(status, "Error")}, status)

    def with_status(self, body: dict, word: str) -> dict:
        return {**body, "aiRecord": {**body["aiRecord"], "status": word}}

    def generate(self, request: Request) -> Reply:
        given = request.json()
        if request.query.get("isStreaming", "false") != "false":
            self.refuse(400, "this feature does not stream")
        found = problems(BODY, given) if isinstance(given, dict) else [None]
        if found or not isinstance(given["promptObject"], dict):
            self.refuse(400, "type, model and promptObject are required, and nothing else")
        values, image = given["promptObject"], None
        found = [f"{problem.name}: {problem.message}" for problem in problems(PROMPT_OBJECT, values)]
        if not found and "image_prompt" in values:
            try:
                image = self.input_image(values["image_prompt"])
            except ValueError as error:
                found.append(f"image_prompt: {error}")
        if found:
            self.refuse(400, "; ".join(found))
        job = self._accepted(values, image)
        self.finish(job)
        return Reply.of(self._record(job), 201 if self.settings["created"] else 200)

    def _accepted(self, values: dict, image) -> Job:
        ratio = values.get("aspect_ratio", "1:1")
        sized = {
            **values,
            "aspect_ratio": "1:1" if ratio == "custom" else ratio,
        }  # its width and height are documented in prose only
        return self.accept(
            MODEL,
            values,
            count=1,
            safe=not values.get("disable_safety_checker", False),
            usd=NOMINAL_USD,
            seed=values.get("seed"),
            size=delivered_size(sized, image),
            form="webp",
            quality=values.get("output_quality", 80),
            image=image and pictures.summary(image),
        )

    def input_image(self, reference: str) -> pictures.Image.Image:
        """Only the path of an uploaded asset counts here."""
        if reference not in self.uploads:
            raise ValueError(f"no asset at {reference[:100]}")
        return pictures.read_image(self.uploads[reference])

    def _record(self, job: Job) -> dict:
        """The answer; it also holds what a client must not log: names, team, credits and a signed address."""
        failed = job.fails("failed") or all(job.blocked)
        signed = f"{self.picture_url(job, 0)}?X-Amz-Expires=604800&X-Amz-Signature=test"
        address = self.settings["address"]
        path = signed if address == "result" else f"development/images/{job.id}.undefined"
        error = ALL_BLOCKED if all(job.blocked) else "The model crashed"
        record = {
            "uuid": job.id,
            "teamUser": {"userName": "Test Person", "creditLimit": 1000000, "usedCredit": 5000},
            "model": MODEL,
            "type": "IMAGE_GENERATOR",
            "status": "FAILED" if failed else "SUCCESS",
            "createdAt": iso(job.accepted),
            "aiRecordDetail": {
                "promptObject": job.input,
                "resultObject": [] if failed else [path],
                "responseObject": {"error": error} if failed else {},
            },
            "additionalData": None,
        }
        if address == "temporary" and not failed:
            record["temporaryUrl"] = signed
        return {"aiRecord": record}

    def picture_type(self, job: Job) -> str:
        return "application/octet-stream"

    def upload(self, request: Request) -> Reply:
        parts = request.form()
        if [part.name for part in parts] != ["asset"] or "." not in (parts[0].filename or ""):
            self.refuse(400, "one file part named asset is required, its name with an extension")
        name = f"images/{uuid.uuid4().hex}_{parts[0].filename}"
        self.uploads[name] = parts[0].data
        asset = {"asset": {"key": name, "location": f"https://s3.us-east-1.amazonaws.com/asset.1min.ai/{name}"}}
        if self.settings["asset_without_content"]:
            return Reply.of(asset)
        content = {"uuid": uuid.uuid4().hex, "path": name, "type": "IMAGE", "name": parts[0].filename}
        return Reply.of({**asset, "fileContent": content})

    def models(self, request: Request) -> Reply:
        model = {
            "modelId": MODEL,
            "name": "Flux Krea Dev",
            "provider": "black-forest-labs",
            "status": "ACTIVE",
            "features": ["IMAGE_GENERATOR"],
            "modality": {"input": ["text", "image"], "output": ["image"]},
            "creditMetadata": None,
        }
        return Reply.of({"models": [model]})
