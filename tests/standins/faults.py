"""How a stand-in misbehaves. A fault belongs to a phase of the exchange and strikes a number of times.

Options any fault takes: `prompt` (only requests and jobs whose text contains it) and `after` (the request is honoured
first, then the answer goes wrong: an accepted job whose submit nevertheless looks failed).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import pictures
from .messages import Hangup, Reply, Request

if TYPE_CHECKING:
    from .provider import Provider

PHASES = ("submit", "upload", "poll", "result", "picture", "cancel", "list", "account", "job")

# What may happen to a job after it was accepted; the providers say each in their own way.
JOB_FATES = ("failed", "nsfw", "never_ends")


@dataclass
class Fault:
    phase: str
    kind: str
    count: int | None
    options: dict

    @classmethod
    def checked(cls, phase: str, kind: str, count: int | str | None, options: dict) -> "Fault":
        known = JOB_FATES if phase == "job" else KINDS
        if phase not in PHASES or kind not in known:
            raise ValueError(f"no fault {kind!r} in phase {phase!r}: phases {PHASES}, kinds {tuple(known)}")
        return cls(phase, kind, None if count == "always" else count, options)

    def use_up(self) -> bool:
        """Strikes once; True when that was the last time."""
        if self.count is None:
            return False
        self.count -= 1
        return self.count <= 0

    def left(self) -> dict:
        return {"phase": self.phase, "kind": self.kind, "count": self.count, **self.options}


@dataclass(frozen=True)
class Scene:
    """What a kind of fault works with. `honour()` carries the request out and returns its true reply."""

    request: Request
    provider: "Provider"
    options: dict
    honour: Callable[[], Reply]


def spoil(fault: Fault, request: Request, provider: "Provider") -> Reply:
    """The reply the fault makes of a request."""

    def honour():
        return provider.serve(request)

    if fault.options.get("after"):
        true_reply = honour()
        return KINDS[fault.kind](Scene(request, provider, fault.options, lambda: true_reply))
    return KINDS[fault.kind](Scene(request, provider, fault.options, honour))


def _status(scene: Scene):
    """`status` (500), `retry_after`, `message`: the provider's own error body for that status."""
    reply = scene.provider.error(scene.options.get("status", 500), scene.options.get("message"))
    if "retry_after" in scene.options:
        reply.headers["Retry-After"] = str(scene.options["retry_after"])
    return reply


def _html(scene: Scene):
    """`status` (502; 200 for a picture): a web page where an answer was due."""
    page = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
    return Reply(scene.options.get("status", 502), page, {"Content-Type": "text/html"})


def _reset_before(scene: Scene):
    raise Hangup


def _reset_after(scene: Scene):
    scene.honour()
    raise Hangup


def _reset_mid_body(scene: Scene):
    return replace(scene.honour(), cut=True)


def _hang(scene: Scene):
    """`seconds` (15): the request lies there, and is honoured afterwards."""
    scene.provider.standin.wait(scene.options.get("seconds", 15))
    return scene.honour()


def _black_hole(scene: Scene):
    """No answer until the server closes."""
    scene.provider.standin.wait(None)


def _malformed(scene: Scene):
    reply = scene.honour()
    return replace(reply, body=reply.body[: len(reply.body) // 2])


def _wrong_type(scene: Scene):
    """`value` ([]): valid JSON that is not what was promised."""
    return replace(scene.honour(), body=json.dumps(scene.options.get("value", [])).encode())


def _unknown_status(scene: Scene):
    reply = scene.honour()
    return replace(reply, body=json.dumps(scene.provider.with_status(json.loads(reply.body), "PONDERING")).encode())


def _missing(scene: Scene):
    """`field`: the answer lacks one of its top-level fields."""
    reply = scene.honour()
    left = {name: value for name, value in json.loads(reply.body).items() if name != scene.options["field"]}
    return replace(reply, body=json.dumps(left).encode())


def _garbage(scene: Scene):
    return replace(scene.honour(), body=bytes(range(256)) * 40)


def _bomb_header(scene: Scene):
    return replace(scene.honour(), body=pictures.png_claiming(20000, 20000))


def _bomb(scene: Scene):
    return replace(scene.honour(), body=pictures.white_png(13000, 13000))


def _huge(scene: Scene):
    """104 MB: a true picture followed by zeros, its length announced."""
    reply = scene.honour()
    extra = 104_000_000 - len(reply.body)
    headers = {**reply.headers, "Content-Length": str(104_000_000)}
    return replace(reply, headers=headers, stream=_then_zeros(reply.body, extra))


def _endless(scene: Scene):
    """A true picture followed by zeros without end (2 GB, so that a trusting client is not killed)."""
    reply = scene.honour()
    return replace(reply, stream=_then_zeros(reply.body, 2_000_000_000))


def _slow(scene: Scene):
    """`seconds` (30): the body trickles."""
    return replace(scene.honour(), pace=scene.options.get("seconds", 30))


def _expired(scene: Scene):
    text = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    return Reply(403, text, {"Content-Type": "application/xml"})


def _redirect(scene: Scene):
    """`to` (this stand-in's other address, which serves the true answer): the key must not follow."""
    path = scene.request.target
    return Reply(302, b"", {"Location": scene.options.get("to", scene.provider.standin.other_url) + path})


def _then_zeros(start: bytes, count: int) -> Iterator[bytes]:
    yield start
    block = bytes(1 << 20)
    for sent in range(0, count, len(block)):
        yield block[: count - sent]


KINDS: dict[str, Callable] = {
    "status": _status,
    "html": _html,
    "reset_before": _reset_before,
    "reset_after": _reset_after,
    "reset_mid_body": _reset_mid_body,
    "hang": _hang,
    "black_hole": _black_hole,
    "malformed": _malformed,
    "wrong_type": _wrong_type,
    "unknown_status": _unknown_status,
    "missing": _missing,
    "garbage": _garbage,
    "bomb_header": _bomb_header,
    "bomb": _bomb,
    "huge": _huge,
    "endless": _endless,
    "slow": _slow,
    "expired": _expired,
    "redirect": _redirect,
}
