"""What goes over the wire, in a form in which two clients can be compared: the request without what names its sender."""

import hashlib
import json
import re
from pathlib import Path

RECORDED = Path(__file__).parent / "official"
# Of the client and the connection, not of the request.
OF_THE_CLIENT = {"user-agent", "accept", "accept-encoding", "connection", "host", "content-length", "x-forwarded-host"}
OF_THE_CLIENT_TOO = ("x-stainless-", "x-client-", "x-sdk-")
HEARTBEAT = [{"ping": True, "taskType": "ping"}]
AN_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<![0-9a-z])[0-9a-f]{26,32}(?![0-9a-z])"
)


def exchange(requests, key: str) -> list[dict]:
    """The requests but for pictures, heartbeats and repeated polls, in their order."""
    lines = [_line(request, key) for request in requests if not request.path.startswith("/files/")]
    lines = [line for line in lines if line["body"] != HEARTBEAT]
    return [line for index, line in enumerate(lines) if line not in lines[:index]]


def _line(request, key: str) -> dict:
    headers = {
        name.lower(): _without_id(value.replace(key, "{key}"))
        for name, value in request.headers.items()
        if name.lower() not in OF_THE_CLIENT and not name.lower().startswith(OF_THE_CLIENT_TOO)
    }
    body = None
    if not request.body:
        headers.pop("content-type", None)  # of nothing
    if request.content_type == "application/json" and request.body:
        body = json.loads(_without_id(json.dumps(request.json(), sort_keys=True).replace(key, "{key}")))
    elif request.content_type == "multipart/form-data":
        headers["content-type"] = "multipart/form-data"
        body = sorted((_part(part) for part in request.form()), key=lambda part: part["name"])
    elif request.body:
        body = hashlib.sha256(request.body).hexdigest()
    return {
        "method": request.method,
        "address": "https://" + request.headers.get("X-Forwarded-Host", "{stand-in}") + _without_id(request.path),
        "query": {name: {"true": "1"}.get(value, value) for name, value in sorted(request.query.items())},
        "headers": dict(sorted(headers.items())),
        "body": body,
    }


def _part(part) -> dict:
    if part.filename is None:
        return {"name": part.name, "text": part.data.decode()}
    digest = hashlib.sha256(part.data).hexdigest()
    return {"name": part.name, "filename": part.filename, "content_type": part.content_type, "sha256": digest}


def _without_id(text: str) -> str:
    return AN_ID.sub("{id}", text)


def recorded(case: str) -> list[dict]:
    return json.loads((RECORDED / f"{case}.json").read_text(encoding="utf-8"))


def record(case: str, lines: list[dict]) -> None:
    (RECORDED / f"{case}.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
