"""What the page asks the server: which keys are set, what a run would cost, which jobs wait. No answer holds a key."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web
from server import PromptServer

from ..jobs.job_record import JobRecord
from ..jobs.limits import DEFAULTS, VARIABLES
from ..jobs.ticket import Choice, Ticket
from ..providers import providers
from ..providers.contract import AUTO, GenerationRequest, ProviderError
from ..safety import detector, installed_detectors
from . import execution, inputs, report, sizes, tensors
from .access import is_owner, refuse_foreign_pages, refuse_other_machines

Body = dict[str, Any]
WRONG_VALUES = (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError)


def register() -> None:
    """Called once, when ComfyUI loads the pack. There is no server when a tool imports the nodes."""
    if getattr(PromptServer, "instance", None) is None:
        return
    routes = PromptServer.instance.routes
    routes.get("/flux_krea/providers")(provider_tables)
    routes.get("/flux_krea/detectors")(detector_states)
    routes.get("/flux_krea/keys")(private(key_states))
    routes.post("/flux_krea/keys")(private(with_body(set_key)))
    routes.post("/flux_krea/keys/remove")(private(with_body(remove_key)))
    routes.post("/flux_krea/keys/test")(private(with_body(test_key)))
    routes.post("/flux_krea/estimate")(estimate)
    routes.post("/flux_krea/size")(with_body(size))
    routes.get("/flux_krea/spending")(private(spending))
    routes.post("/flux_krea/limits")(private(with_body(set_limit)))
    routes.get("/flux_krea/waiting")(private(waiting_jobs))
    routes.get("/flux_krea/waiting/{job}/{index:[0-9]{1,4}}")(private(waiting_picture))
    routes.post("/flux_krea/waiting/put_aside")(private(with_body(dismiss)))


# ── for every page ───────────────────────────────────────────────────────────────────────────────────────────────────


async def provider_tables(request: web.Request) -> web.Response:
    """Each provider's own words for the widgets: the page shows only what the chosen one knows."""
    return web.json_response(
        {
            name: {
                "label": provider.label,
                "key_variable": provider.key_variable,
                "key_page": provider.key_page,
                "max_images": provider.max_images,
                "modes": {
                    mode: {field: asdict(parameter) for field, parameter in table.items()}
                    for mode, table in provider.parameters.items()
                },
            }
            for name, provider in providers().items()
        }
    )


async def detector_states(request: web.Request) -> web.Response:
    """Each detector that Krea Safety Check offers: null, or the sentence with which it would refuse."""
    names = installed_detectors.names() or [detector.DEFAULT]
    return web.json_response({name: await execution.in_thread(detector_trouble, name) for name in names})


def detector_trouble(name: str) -> str | None:
    try:
        installed_detectors.check(name)
    except ValueError as problem:
        return str(problem)
    return None


async def estimate(request: web.Request) -> web.Response:
    """What a run with these widget values would cost, as the node would send it; or why it would be refused.

    Which provider has a key is the owner's to know: for auto, anybody else hears the dearest price and nothing more.
    """
    return await with_body(functools.partial(estimate_of, is_owner(request)))(request)


async def estimate_of(for_owner: bool, body: Body) -> Body:
    name, values = body.get("provider"), body.get("values")
    has_image, has_mask = body.get("has_image"), body.get("has_mask")
    if not isinstance(values, dict) or not isinstance(name, str):
        raise web.HTTPBadRequest(text="provider must be a text, and values an object with the node's widgets.")
    is_private = name == AUTO and not for_owner
    try:
        image, mask = inputs.BLANK_IMAGE if has_image else None, inputs.BLANK_MASK if has_mask else None
        request = inputs.request_of(**values, image=image, mask=mask)
        return await execution.in_thread(at_most if is_private else priced, name, request)
    except ProviderError as refusal:
        # It says no more than was sent; what is hidden in it would tell which keys are set.
        return {"refused": execution.jobs().keys.redacted(str(refusal)) if for_owner else str(refusal)}


def at_most(name: str, request: GenerationRequest) -> Body:
    """In place of `priced`, for who may not know who is paid."""
    usd = execution.jobs().dearest(request)
    note = "at most, at the providers whose price is known; which of them has a key is seen on ComfyUI's own machine"
    return {
        "provider": name,
        "usd": report.rounded(usd),
        "note": note,
        "size": None,
        "changes": [],
        "loras": loras_of(request),
    }


def priced(name: str, request: GenerationRequest) -> Body:
    jobs = execution.jobs()
    chosen = jobs.choose(request)[0] if name == AUTO else name
    known = jobs.estimate(chosen, request)
    provider = providers()[chosen]
    plan = provider.plan(replace(request, images=min(request.images, provider.max_images)))
    return {
        "provider": chosen,
        "usd": report.rounded(known.usd),
        "note": known.note,
        "size": plan.size,
        "changes": [change.as_dict() for change in plan.changes],
        "loras": loras_of(request),
    }


def loras_of(request: GenerationRequest) -> list[Body]:
    return [{"path": lora.path, "strength": lora.strength} for lora in request.loras]


async def size(body: Body) -> Body:
    """What Krea Size would say with these widget values."""
    return {"text": sizes.describe(sizes.asked_size(**body))}


# ── for this very machine ────────────────────────────────────────────────────────────────────────────────────────────


async def key_states(request: web.Request) -> web.Response:
    """Where each key comes from: environment, file or missing."""
    keys = execution.jobs().keys
    return web.json_response({name: keys.state(name) for name in providers()})


async def set_key(body: Body) -> Body:
    name, key = known_provider(body), body.get("key")
    if not isinstance(key, str):
        raise web.HTTPBadRequest(text="key must be a text.")
    await execution.in_thread(execution.jobs().keys.set, name, key)
    return {"state": execution.jobs().keys.state(name)}


async def remove_key(body: Body) -> Body:
    name = known_provider(body)
    await execution.in_thread(execution.jobs().keys.remove, name)
    return {"state": execution.jobs().keys.state(name)}


async def test_key(body: Body) -> Body:
    """Asks the provider, for nothing, in a thread: a slow provider must not hold up ComfyUI."""
    name = known_provider(body)
    await execution.in_thread(execution.jobs().test_key, name)
    return {"works": True}


async def spending(request: web.Request) -> web.Response:
    """US dollars paid or reserved in the last 24 hours, what is left, and each of the server's limits."""
    return web.json_response(await execution.in_thread(spent))


def spent() -> Body:
    jobs = execution.jobs()
    limits = {
        name: {"usd": jobs.limits.value(name), "source": jobs.limits.source(name), "variable": VARIABLES[name]}
        for name in DEFAULTS
    }
    return {
        "spent_24h": report.rounded(jobs.spent_today()),
        "left_24h": report.rounded(jobs.left_today()),
        "limits": limits,
    }


async def set_limit(body: Body) -> Body:
    """`limit` is one of the names that `spending` gives, `usd` an amount, or null for the default."""
    name, usd = body.get("limit"), body.get("usd")
    if not isinstance(name, str) or "usd" not in body:
        raise web.HTTPBadRequest(text=f"limit must be one of {', '.join(DEFAULTS)}, and usd must be said.")
    await execution.in_thread(execution.jobs().limits.set, name, usd)
    return await execution.in_thread(spent)


async def waiting_jobs(request: web.Request) -> web.Response:
    """Jobs that were paid, or perhaps paid, and that no graph has received; the newest first."""
    records = await execution.in_thread(execution.jobs().pending)
    return web.json_response([described(it) for it in reversed(records) if not execution.is_in_running_graph(it)])


def described(record: JobRecord) -> Body:
    return {
        "id": record.id,
        "ticket": str(Ticket((Choice(record.provider, (record.id,)),))),
        "provider": record.provider,
        "state": record.waits_as,
        "prompt": record.request.get("prompt", ""),
        "seed": record.request.get("seed"),
        "flags": (record.delivery or {}).get("flags", []),
        "pictures": len(record.pictures),
    }


async def waiting_picture(request: web.Request) -> web.Response:
    """A small copy of a picture in the list, drawn anew: nothing of the provider's file but its pixels."""
    job, index = request.match_info["job"], int(request.match_info["index"])
    picture = await execution.in_thread(execution.jobs().picture, job, index)
    if picture is None:
        raise web.HTTPNotFound(text="There is no such picture.")
    content = await execution.in_thread(tensors.thumbnail, picture)
    return web.Response(body=content, content_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


async def dismiss(body: Body) -> Body:
    """Takes a job off the list. Nothing is deleted, and its ticket goes on collecting it; a lost answer stands in the way
    of no new order then."""
    job = body.get("id")
    if not isinstance(job, str):
        raise web.HTTPBadRequest(text="id must be the text that the list gives.")
    return {"put_aside": await execution.in_thread(execution.jobs().dismiss, job)}


def known_provider(body: Body) -> str:
    name = body.get("provider")
    if not isinstance(name, str) or name not in providers():
        raise web.HTTPBadRequest(text=f"There is no provider {str(name)[:40]!r}; there are {', '.join(providers())}.")
    return name


# ── who may ask ──────────────────────────────────────────────────────────────────────────────────────────────────────

Handler = Callable[[web.Request], Awaitable[web.Response]]


def private(handler: Handler) -> Handler:
    """For a browser on this very machine: keys, money, and what was generated for it."""

    async def guarded(request: web.Request) -> web.Response:
        refuse_other_machines(request)
        return await answered(handler(request))

    return guarded


def with_body(action: Callable[[Body], Awaitable[Body]]) -> Handler:
    """A route that takes a JSON object, from a page that this server served."""

    async def handler(request: web.Request) -> web.Response:
        refuse_foreign_pages(request)
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError, web.RequestPayloadError):
            raise web.HTTPBadRequest(text="The body is not JSON.") from None
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="The body must be a JSON object.")

        async def act() -> web.Response:
            return web.json_response(await action(body))

        return await answered(act())

    return handler


async def answered(work: Awaitable[web.Response]) -> web.Response:
    """Errors as sentences."""
    try:
        return await work
    except ProviderError as problem:
        return web.json_response({"error": execution.jobs().keys.redacted(str(problem))}, status=422)
    except WRONG_VALUES as problem:
        said = str(problem)[:200].encode("utf-8", "replace").decode()  # half a character cannot be sent
        raise web.HTTPBadRequest(text=f"The values are not those of the node: {said}") from None
    except web.HTTPException:
        raise
    except Exception as problem:  # the disk, or the journal on it
        from ..jobs.sentences import as_user_error  # it brings sqlite3, which nobody needs before

        return web.json_response({"error": str(as_user_error(problem))}, status=503)
