"""What the page asks the server: which keys are set, what a run would cost, which jobs wait. No answer holds a key."""

from __future__ import annotations

from dataclasses import asdict, replace

from aiohttp import web
from server import PromptServer

from ..providers import providers
from ..providers.contract import ProviderError
from ..safety import detector, installed_detectors
from . import execution, inputs, sizes, tensors
from .access import refuse_foreign_pages, refuse_other_machines


def register() -> None:
    """Called once, when ComfyUI loads the pack. There is no server when a tool imports the nodes."""
    if getattr(PromptServer, "instance", None) is None:
        return
    routes = PromptServer.instance.routes
    routes.get("/flux_krea/providers")(provider_tables)
    routes.get("/flux_krea/keys")(key_states)
    routes.post("/flux_krea/keys")(guarded(set_key))
    routes.post("/flux_krea/keys/remove")(guarded(remove_key))
    routes.post("/flux_krea/keys/test")(guarded(test_key))
    routes.post("/flux_krea/estimate")(guarded(estimate, local_only=False))
    routes.post("/flux_krea/size")(guarded(size, local_only=False))
    routes.get("/flux_krea/waiting")(waiting_jobs)
    routes.get("/flux_krea/waiting/{job}/{index:[0-9]+}")(waiting_picture)
    routes.post("/flux_krea/waiting/put_aside")(guarded(put_aside, local_only=False))
    routes.get("/flux_krea/detectors")(detector_states)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


async def key_states(request: web.Request) -> web.Response:
    """Where each key comes from: environment, file or missing."""
    keys = execution.jobs().keys
    return web.json_response({name: keys.state(name) for name in providers()})


async def waiting_jobs(request: web.Request) -> web.Response:
    """Jobs that were paid, or perhaps paid, and that no graph has got; the newest first."""
    rows = await execution.in_thread(execution.jobs().pending)
    return web.json_response([described(row) for row in reversed(rows) if not execution.is_in_hand(row)])


def described(row) -> dict:
    return {
        "id": row.id,
        "ticket": f"{row.provider}/{row.id}",
        "provider": row.provider,
        "state": row.waits_as,
        "prompt": row.request.get("prompt", ""),
        "seed": row.request.get("seed"),
        "flags": (row.delivery or {}).get("flags", []),
        "pictures": len(row.pictures),
    }


async def waiting_picture(request: web.Request) -> web.Response:
    """A small copy of a picture in the list, drawn anew: nothing of the provider's file but its pixels."""
    job, index = request.match_info["job"], int(request.match_info["index"])
    picture = await execution.in_thread(execution.jobs().picture, job, index)
    if picture is None:
        raise web.HTTPNotFound(text="There is no such picture.")
    content = await execution.in_thread(tensors.thumbnail, picture)
    return web.Response(body=content, content_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


async def detector_states(request: web.Request) -> web.Response:
    """Each detector that Krea Safety Check offers: null, or the sentence with which it would refuse."""
    names = installed_detectors.names() or [detector.DEFAULT]
    return web.json_response({name: await execution.in_thread(detector_trouble, name) for name in names})


def detector_trouble(name: str) -> str | None:
    try:
        installed_detectors.inspect(name)
    except ValueError as problem:
        return str(problem)
    return None


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def set_key(body: dict) -> dict:
    name, key = known_provider(body), body.get("key")
    if not isinstance(key, str):
        raise web.HTTPBadRequest(text="key must be a text.")
    await execution.in_thread(execution.jobs().keys.set, name, key)
    return {"state": execution.jobs().keys.state(name)}


async def remove_key(body: dict) -> dict:
    name = known_provider(body)
    await execution.in_thread(execution.jobs().keys.remove, name)
    return {"state": execution.jobs().keys.state(name)}


async def test_key(body: dict) -> dict:
    """Asks the provider, for nothing, in a thread: a slow provider must not hold up ComfyUI."""
    name = known_provider(body)
    await execution.in_thread(execution.jobs().test_key, name)
    return {"works": True}


async def put_aside(body: dict) -> dict:
    """Takes a job off the list; nothing is deleted, and its ticket goes on collecting it."""
    job = body.get("id")
    if not isinstance(job, str):
        raise web.HTTPBadRequest(text="id must be the text that the list gives.")
    return {"put_aside": await execution.in_thread(execution.jobs().put_aside, job)}


async def estimate(body: dict) -> dict:
    """What a run with these widget values would cost, as the node would send it; or why it would be refused."""
    name, has_image, values = body.get("provider"), body.get("has_image"), body.get("values")
    if not isinstance(values, dict):
        raise web.HTTPBadRequest(text="values must be an object with the node's widgets.")
    try:
        request = inputs.request_of(**values, image=inputs.BLANK_IMAGE if has_image else None)
        return await execution.in_thread(priced, name, request)
    except (TypeError, ValueError) as problem:
        raise web.HTTPBadRequest(text=f"The values are not those of API Krea: {problem}") from None
    except ProviderError as refusal:
        return {"refused": execution.jobs().keys.redacted(str(refusal))}


async def size(body: dict) -> dict:
    """What Krea Size would say with these widget values."""
    try:
        return {"text": sizes.describe(sizes.asked_size(**body))}
    except (TypeError, ValueError, OverflowError) as problem:
        raise web.HTTPBadRequest(text=f"The values are not those of Krea Size: {problem}") from None


def priced(name: str, request) -> dict:
    jobs = execution.jobs()
    chosen = jobs.choose(request)[0] if name == inputs.AUTO else name
    known = jobs.estimate(chosen, request)
    provider = providers()[chosen]
    plan = provider.plan(replace(request, images=min(request.images, provider.max_images)))
    return {
        "provider": chosen,
        "usd": known.usd,
        "note": known.note,
        "size": plan.size,
        "changes": [
            {"input": it.parameter, "asked": it.asked, "delivered": it.delivered, "because": it.reason}
            for it in plan.changes
        ],
    }


def known_provider(body: dict) -> str:
    name = body.get("provider")
    if name not in providers():
        raise web.HTTPBadRequest(text=f"There is no provider {name!r}; there are {', '.join(providers())}.")
    return name


# ── who may write ────────────────────────────────────────────────────────────────────────────────────────────────────


def guarded(action, local_only: bool = True):
    """A route that takes JSON from this very page only; keys only from this very machine. Answers errors as sentences."""

    async def handler(request: web.Request) -> web.Response:
        refuse_foreign_pages(request)
        if local_only:
            refuse_other_machines(request)
        try:
            body = await request.json()
        except ValueError:
            raise web.HTTPBadRequest(text="The body is not JSON.") from None
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="The body must be a JSON object.")
        try:
            return web.json_response(await action(body))
        except ProviderError as problem:
            return web.json_response({"error": execution.jobs().keys.redacted(str(problem))}, status=422)

    return handler
