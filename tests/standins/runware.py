"""Runware: one address that takes arrays of tasks, with an id of the caller's on each.

Read from the model page, the reference and the types of its own clients. What they leave open (the multiple of a size,
where an input picture belongs, how long an id stays taken, what a dry run does) is played both ways by a setting.
"""

import base64
import binascii
import json
import re
import time
import uuid

from . import pictures
from .checks import Field, Problem, problems
from .messages import BadBody, Reply, Request
from .provider import Job, Provider, Route

MODEL = "runware:107@1"
USD, USD_PIXELS, USD_STEPS = 0.0098, 1024 * 1024, 28  # the page's example
STEPS, GUIDANCE = 20, 7.0  # its generic defaults, which are not this model's sweet spot: a client should send both
FORMS = {"JPG": "jpg", "PNG": "png", "WEBP": "webp"}
TASK = {"taskType": Field(required=True), "taskUUID": Field(required=True)}
INFERENCE = {
    **TASK,
    "model": Field(required=True, choices=(MODEL,)),
    "positivePrompt": Field(required=True, longest=3000),
    "negativePrompt": Field(longest=3000),
    "width": Field("integer", 128, 2048, required=True),
    "height": Field("integer", 128, 2048, required=True),
    "steps": Field("integer", 1, 100),
    "CFGScale": Field("number", 0, 50),
    "seed": Field("integer", 0, 2**63 - 1),
    "scheduler": Field(),
    "numberResults": Field("integer", 1, 20),
    "inputs": Field("any"),
    "seedImage": Field(),
    "maskImage": Field(),
    "strength": Field("number", 0, 1),
    "maskMargin": Field("integer", 32, 128),
    "lora": Field("any"),
    "outputType": Field(choices=("URL", "base64Data", "dataURI")),
    "outputFormat": Field(choices=tuple(FORMS)),
    "outputQuality": Field("integer", 20, 99),
    "deliveryMethod": Field(choices=("sync", "async")),
    "includeCost": Field("boolean"),
    "safety": Field("any"),
    "ttl": Field("integer", 60),
    "acceleratorOptions": Field("any"),
}
INSIDE = {
    "inputs": {"seedImage": Field(), "maskImage": Field()},
    "safety": {"checkContent": Field("boolean")},
    "acceleratorOptions": {
        "teaCache": Field("boolean"),
        "teaCacheDistance": Field("number", 0, 1),
        "dbCache": Field("boolean"),
        "dbCacheThreshold": Field("number"),
        "dbCacheSkipInterval": Field("integer"),
        "cacheStartStep": Field("integer"),
        "cacheEndStep": Field("integer"),
        "cacheStartStepPercentage": Field("integer", 0, 100),
        "cacheEndStepPercentage": Field("integer", 0, 100),
        "cacheMaxConsecutiveSteps": Field("integer", 1, 5),
    },
}
LORA = {"model": Field(required=True), "weight": Field("number", -4, 4)}
AIR = re.compile(r"[\w-]+:[\w-]+@[\w-]+")
RULES = {"missing": "missing", "unknown": "unsupported"}  # any other broken rule is an invalid value
PHASES = {"imageInference": "submit", "getResponse": "poll", "getTaskDetails": "list", "imageUpload": "upload",
          "mediaStorage": "upload"}  # fmt: skip
CODES = {401: "invalidApiKey", 402: "insufficientCredits", 403: "forbidden", 404: "notFound", 405: "methodNotAllowed",
         429: "rateLimitExceeded", 500: "internalServerError", 503: "serviceUnavailable",
         504: "timeoutProvider"}  # fmt: skip


class Refused(Exception):
    """One task's "no": its HTTP status, the error object, and `data` that came all the same."""

    def __init__(self, status: int, code: str, message: str, data: tuple = (), **more):
        super().__init__(message)
        self.status, self.error, self.data = status, {"code": code, "message": message, **more}, data


class Runware(Provider):
    name = "runware"
    key = "test-key-runware"
    key_variable = "RUNWARE_API_KEY"
    # One address; which phase a request belongs to is in its tasks. The key may stand in the first of them.
    routes = tuple(
        Route("POST", "/v1", phase, "tasks", open=True) for phase in ("submit", "poll", "list", "upload", "account")
    )
    unbilled_fates = ()  # not documented: that a failure costs is the stricter reading
    blackens = False  # what is flagged is delivered all the same
    defaults = {
        "balance": 10.0,
        "balance_form": "number",  # or "object"
        "account_open": True,  # whether this key may ask for the balance
        "size_multiple": 64,  # or 16
        "image_fields": "both",  # where input pictures may stand: "inputs", "top", "both" or "none"
        "uuid_memory": float("inf"),  # seconds for which a taskUUID stays taken
        "refused_uuid_is_taken": False,  # also by a task that was refused for its values
        "record_lifetime": float("inf"),  # seconds for which a task can be asked for after its end
        "silent_while_running": False,  # a running task answers with no items at all, as an unknown one does
        "reversed_results": False,
        "free_cost": False,  # tells a cost of 0, which means that it has no price to tell
        "error_shape": "errors",  # or "error" (a list), "flat" (one object, with the task's id beside it)
        "honours_dry_run": False,
        "failed_status": 200,  # of a synchronous call whose task failed
    }
    canned = {
        401: "Invalid API key. Get one at https://my.runware.ai/keys",
        402: "Insufficient credits. Top up your balance at https://my.runware.ai/wallet",
        403: "This API key lacks the permission for this operation",
        404: "Not found",
        429: "Rate limit exceeded, the queue is full",
        500: "Internal server error",
        503: "No capacity available",
        504: "The provider timed out",
    }

    def forget(self):
        super().forget()
        self.by_uuid: dict[str, Job] = {}
        self.refused_uuids: set[str] = set()

    def authorized(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.key}"

    def phase_of(self, request: Request, route: Route) -> str:
        try:
            kinds = [task.get("taskType") for task in json.loads(request.body) if isinstance(task, dict)]
        except (ValueError, TypeError):
            return route.phase
        named = [PHASES.get(kind, "account") for kind in kinds if kind != "authentication"]
        return named[0] if named else "account"

    def error(self, status: int, message: str | None = None) -> Reply:
        words = message or self.canned.get(status, "The request could not be handled")
        return self._errors(status, [{"code": CODES.get(status, "invalidRequest"), "message": words}])

    def _errors(self, status: int, errors: list[dict], data: list[dict] | None = None) -> Reply:
        shape = self.settings["error_shape"]
        if shape == "flat":
            body = {"error": {name: errors[0][name] for name in ("code", "message")}}
            if "taskUUID" in errors[0]:
                body["taskUUID"] = errors[0]["taskUUID"]
        else:
            body = {shape: errors}
        return Reply.of({**({"data": data} if data else {}), **body}, status)

    def with_status(self, body: dict, word: str) -> dict:
        return {"data": [{**item, "status": word} for item in body.get("data", [])]}

    # An array of tasks

    def tasks(self, request: Request) -> Reply:
        try:
            given = request.json()
        except BadBody as error:
            self.refuse(400, str(error))
        if not isinstance(given, list) or not given or not all(isinstance(task, dict) for task in given):
            self.refuse(400, "The body must be an array of task objects")
        opens = given[0].get("taskType") == "authentication"
        if opens and given[0].get("apiKey") != self.key or not opens and not self.authorized(request):
            self.refuse(401)
        data, errors, status = [], [], 200
        for task in given:
            try:
                data += self._one(request, task)
            except Refused as refused:
                named = {name: task[name] for name in ("taskType", "taskUUID") if name in task}
                data += refused.data
                errors.append({**refused.error, **named})
                status = refused.status
        if not errors:
            return Reply.of({"data": data})
        return self._errors(200 if data else status, errors, data)

    def _one(self, request: Request, task: dict) -> list[dict]:
        kinds = {
            "authentication": lambda: [{"taskType": "authentication", "connectionSessionUUID": str(uuid.uuid4())}],
            "ping": lambda: [{"taskType": "ping", "pong": True}],
            "imageInference": lambda: self._inference(request, task),
            "getResponse": lambda: self._response(task),
            "getTaskDetails": lambda: self._details(task),
            "imageUpload": lambda: self._upload(task, "image", "imageUUID"),
            "mediaStorage": lambda: self._upload(task, "media", "mediaUUID"),
            "accountManagement": lambda: self._account(task),
        }
        kind = task.get("taskType")
        if kind not in kinds:
            raise Refused(400, "invalidTaskType", f"Unknown taskType {kind!r}", parameter="taskType")
        if kind not in ("authentication", "ping") and not _is_uuid4(task.get("taskUUID")):
            raise Refused(400, "invalidTaskUUID", "taskUUID must be a UUID v4", parameter="taskUUID")
        return kinds[kind]()

    # Inference

    def _inference(self, request: Request, task: dict) -> list[dict]:
        name = task["taskUUID"]
        taken = self.by_uuid.get(name)
        if name in self.refused_uuids or taken and time.time() < taken.accepted + self.settings["uuid_memory"]:
            raise Refused(400, "conflictTaskUUID", "A task with this taskUUID exists already", parameter="taskUUID")
        if self.settings["balance"] <= 0:
            raise Refused(402, CODES[402], self.canned[402])
        try:
            self._check(task)
            images = self._images(task)
        except Refused:
            if self.settings["refused_uuid_is_taken"]:
                self.refused_uuids.add(name)
            raise
        usd = _price(task) * task.get("numberResults", 1)
        if request.headers.get("X-Runware-Dry-Run") == "1" and self.settings["honours_dry_run"]:
            return [{"taskType": task["taskType"], "taskUUID": name, "cost": usd}]
        job = self._accepted(task, images, usd, name if taken is None else str(uuid.uuid4()))
        self.by_uuid[name] = job
        if task.get("deliveryMethod", "sync") == "async":
            return [{"taskType": task["taskType"], "taskUUID": name}]
        self.finish(job)
        return self._finished(job)

    def _check(self, task: dict):
        found = problems(INFERENCE, task)
        for place, fields in INSIDE.items():
            if place in task:
                found += _inside(place, fields, task[place])
        if "lora" in task:
            found += _wrong_loras(task["lora"])
        step = self.settings["size_multiple"]
        if not found:
            found += [
                Problem(side, "invalid", f"{side} must be a multiple of {step}", step, task[side])
                for side in ("width", "height")
                if task[side] % step
            ]
            if len(task["positivePrompt"]) < 2:
                found.append(Problem("positivePrompt", "short", "positivePrompt must have 2 to 3000 characters"))
        if found:
            first = found[0]
            code = RULES.get(first.rule, "invalid") + first.name[0].upper() + first.name[1:].replace(".", "")
            limits = {"low": "min", "high": "max", "invalid": "multiplier"}
            more = {limits[first.rule]: first.limit} if first.rule in limits and first.limit is not None else {}
            raise Refused(400, code, f"{first.name}: {first.message}", parameter=first.name, **more)

    def _images(self, task: dict) -> dict:
        """The input picture and the mask, from whichever place is open."""
        allowed, nested = self.settings["image_fields"], task.get("inputs", {})
        top = {name: task[name] for name in ("seedImage", "maskImage") if name in task}
        for place, given in (("top", top), ("inputs", nested)):
            if given and allowed not in (place, "both"):
                name = next(iter(given))
                raise Refused(400, f"unsupported{name[0].upper()}{name[1:]}", f"{name} is not supported here",
                              parameter=name if place == "top" else f"inputs.{name}")  # fmt: skip
        images = {}
        for name, reference in {**top, **nested}.items():
            try:
                images[name] = self.input_image(reference)
            except ValueError as error:
                raise Refused(400, f"invalid{name[0].upper()}{name[1:]}", str(error), parameter=name) from None
        if "seedImage" not in images and ("strength" in task or "maskImage" in images):
            name = "maskImage" if "maskImage" in images else "strength"
            raise Refused(400, "missingSeedImage", f"{name} needs a seedImage", parameter="seedImage")
        if len({image.size for image in images.values()}) > 1:
            raise Refused(400, "invalidMaskImage", "The mask must have the seed image's size", parameter="maskImage")
        return images

    def input_image(self, reference: str) -> pictures.Image.Image:
        if reference.startswith(("data:", "http://", "https://")) or reference in self.uploads:
            return super().input_image(reference)
        try:
            return pictures.read_image(base64.b64decode(reference, validate=True))
        except binascii.Error as error:
            raise ValueError("neither an upload's UUID, an address, a data URI nor base64") from error

    def _accepted(self, task: dict, images: dict, usd: float, job_id: str) -> Job:
        image, mask = images.get("seedImage"), images.get("maskImage")
        return self.accept(
            "imageInference",
            {**task, "prompt": task["positivePrompt"]},
            count=task.get("numberResults", 1),
            safe=task.get("safety", {}).get("checkContent", False),
            usd=usd,
            seed=task.get("seed"),
            size=(task["width"], task["height"]),
            form=FORMS[task.get("outputFormat", "JPG")],
            quality=task.get("outputQuality", 95),
            image=image and pictures.summary(image),
            canvas=pictures.Canvas(image, mask) if mask else None,
            id=job_id,
            extra={"task": task},
        )

    # Results

    def _finished(self, job: Job, **more) -> list[dict]:
        """The items of a task that is over, with `more` in each; Refused, with the items, where one of them is lost."""
        indices = range(len(job.blocked))
        items = [{**self._item(job, index), **more} for index in indices if not self._is_lost(job, index)]
        items = items[::-1] if self.settings["reversed_results"] else items
        if len(items) == len(job.blocked):
            return items
        options = job.fate.options
        message = options.get("message", "The provider failed to generate the image")
        raise Refused(self.settings["failed_status"], options.get("code", "providerError"), message, tuple(items))

    @staticmethod
    def _is_lost(job: Job, index: int) -> bool:
        return job.fails("failed") and job.fate.options.get("index", index) == index

    def _item(self, job: Job, index: int) -> dict:
        task = job.extra["task"]
        item = {"taskType": "imageInference", "taskUUID": task["taskUUID"],
                "imageUUID": str(uuid.uuid5(uuid.UUID(task["taskUUID"]), str(index))),
                "seed": job.seed + index}  # fmt: skip
        kind = task.get("outputType", "URL")
        if kind == "URL":
            item["imageURL"] = self.picture_url(job, index)
        elif kind == "dataURI":
            item["imageDataURI"] = pictures.data_uri(self.picture_bytes(job, index), job.form)
        else:
            item["imageBase64Data"] = base64.b64encode(self.picture_bytes(job, index)).decode()
        if task.get("includeCost"):
            item["cost"] = 0 if self.settings["free_cost"] else job.usd / len(job.blocked)
        if task.get("safety", {}).get("checkContent"):
            item["NSFWContent"] = job.blocked[index]
        return item

    def _known(self, task: dict) -> Job | None:
        job = self.by_uuid.get(task["taskUUID"])
        if job and time.time() > job.ended + self.settings["record_lifetime"]:
            return None
        return job

    def _response(self, task: dict) -> list[dict]:
        """The pictures come one by one; the rest is said to be processing."""
        self._only(task, TASK)
        job = self._known(task)
        if job is None:
            return []
        job.polls += 1
        if job.stage() == "done":
            return self._finished(job, status="success")
        if self.settings["silent_while_running"]:
            return []
        count = len(job.blocked)
        ready = 0 if job.fails("failed") else int(job.share_done() * count)
        waiting = {"taskType": "imageInference", "taskUUID": task["taskUUID"], "status": "processing"}
        return [
            *({**self._item(job, index), "status": "success"} for index in range(ready)),
            *[waiting] * (count - ready),
        ]

    def _details(self, task: dict) -> list[dict]:
        self._only(task, TASK)
        job = self._known(task)
        if job is None:
            return []
        response: dict = {"data": []}
        if job.stage() == "done":
            try:
                response = {"data": self._finished(job)}
            except Refused as refused:
                response = {"data": list(refused.data), "errors": [refused.error]}
        return [{**task, "request": [job.extra["task"]], "response": response}]

    def picture(self, request: Request, job_id: str, index: str) -> Reply:
        """One that is ready can be fetched before the last one is."""
        job = self.job(job_id)
        if (
            int(index) >= len(job.blocked)
            or int(index) >= int(job.share_done() * len(job.blocked))
            or self.expired(job)
        ):
            self.refuse(404)
        job.pictures_served += 1
        return Reply(200, self.picture_bytes(job, int(index)), {"Content-Type": self.picture_type(job)},
                     pace=self.settings["download_seconds"])  # fmt: skip

    # Uploads and the account

    def _upload(self, task: dict, field: str, answer: str) -> list[dict]:
        more = {"operation": Field(required=True, choices=("upload",))} if field == "media" else {}
        self._only(task, {**TASK, **more, field: Field(required=True)})
        name = str(uuid.uuid4())
        try:
            data = self._bytes_of(task[field])
            pictures.read_image(data)
        except ValueError as error:
            raise Refused(400, "invalidMedia", str(error), parameter=field) from None
        self.uploads[name] = data
        return [{"taskType": task["taskType"], "taskUUID": task["taskUUID"], answer: name}]

    @staticmethod
    def _bytes_of(text: str) -> bytes:
        if text.startswith("data:"):
            return pictures.read_data_uri(text)
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError("neither a data URI nor base64") from error

    def _account(self, task: dict) -> list[dict]:
        self._only(task, {**TASK, "operation": Field(required=True, choices=("getDetails",))})
        if not self.settings["account_open"]:
            raise Refused(403, CODES[403], self.canned[403])
        amount = self.settings["balance"]
        as_object = {"amount": amount, "currency": "USD"}
        return [{**task, "organizationUUID": str(uuid.UUID(int=1)), "organizationName": "Test",
                 "balance": amount if self.settings["balance_form"] == "number" else as_object}]  # fmt: skip

    @staticmethod
    def _only(task: dict, fields: dict[str, Field]):
        found = problems({**fields, "numberResults": Field("integer")}, task)
        if found:
            raise Refused(400, f"{RULES.get(found[0].rule, 'invalid')}Parameter", found[0].message,
                          parameter=found[0].name)  # fmt: skip


def _price(task: dict) -> float:
    """By compute time: the page's example, scaled by pixels and steps."""
    pixels, steps = task["width"] * task["height"], task.get("steps", STEPS)
    return round(USD * pixels / USD_PIXELS * steps / USD_STEPS, 6)


def _is_uuid4(text: object) -> bool:
    try:
        return isinstance(text, str) and uuid.UUID(text).version == 4 and str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _inside(place: str, fields: dict[str, Field], given: object) -> list[Problem]:
    if not isinstance(given, dict):
        return [Problem(place, "type", "Input should be an object", "object", given)]
    return [
        Problem(f"{place}.{each.name}", each.rule, each.message, each.limit, each.given)
        for each in problems(fields, given)
    ]


def _wrong_loras(loras: object) -> list[Problem]:
    if not isinstance(loras, list):
        return [Problem("lora", "type", "Input should be an array", "array", loras)]
    found = []
    for item in loras:
        wrong = _inside("lora", LORA, item)
        if not wrong and not AIR.fullmatch(item["model"]):
            wrong = [Problem("lora.model", "invalid", "Must be an AIR identifier", given=item["model"])]
        found += wrong
    return found
