"""Who may ask: a page that this server served, and for keys, money and paid pictures a browser on this very machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from aiohttp import web

from ..jobs import environment

REMOTE_KEYS = "FLUX_KREA_ALLOW_REMOTE_KEYS"  # the operator's word that keys may be set from other machines
OF_A_PROXY = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


def refuse_foreign_pages(request: web.Request) -> None:
    """A page elsewhere cannot send JSON without asking first, and says where it comes from."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send application/json.")
    origin = request.headers.get("Origin")
    if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
        raise web.HTTPForbidden(text="This page may not write here.")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise web.HTTPForbidden(text="This page may not write here.")


def refuse_other_machines(request: web.Request) -> None:
    if not is_owner(request):
        raise web.HTTPForbidden(
            text=f"Keys, limits and paid pictures are seen and set on the machine that runs ComfyUI, at http://127.0.0.1, "
            f"or in its environment. {REMOTE_KEYS}=1 in the server's environment allows it from here."
        )


def is_owner(request: web.Request) -> bool:
    """On this machine by the address and by the name: a name that an attacker points at this machine is not this machine's.

    Behind a proxy both are the proxy's own, and so say nothing.
    """
    if environment.variable(REMOTE_KEYS) == "1":
        return True
    is_proxied = any(name in request.headers for name in OF_A_PROXY)
    return not is_proxied and is_loopback(host_name(request)) and is_loopback(request.remote or "")


def host_name(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
