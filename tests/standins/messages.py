"""What goes over the wire: a request, its reply, and the two ways a reply is not given."""

import email
import email.message
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit


class Hangup(Exception):
    """Ends the exchange with a TCP reset; nothing more is sent."""


class Refusal(Exception):
    """A provider's "no"; carries the reply."""

    def __init__(self, reply: "Reply"):
        super().__init__(f"refused with {reply.status}")
        self.reply = reply


class BadBody(ValueError):
    """A body that is not what its route takes: wrong Content-Type, broken JSON, broken form."""


class Part(NamedTuple):
    """One part of a multipart form; `filename` is None for a plain field."""

    name: str
    filename: str | None
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: email.message.Message
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def content_type(self) -> str:
        return self.headers.get_content_type() if "Content-Type" in self.headers else ""

    def json(self) -> object:
        """The body; BadBody when it is not strict JSON sent as application/json."""
        if self.content_type != "application/json":
            raise BadBody(f"Content-Type must be application/json, got {self.content_type or 'none'}")
        try:
            return json.loads(self.body, parse_constant=_no_constant)
        except ValueError as error:
            raise BadBody(f"the body is not JSON: {error}") from error

    def form(self) -> list[Part]:
        """The parts of a multipart/form-data body; BadBody when it is something else."""
        boundary = self.headers.get_boundary()
        if self.content_type != "multipart/form-data" or not boundary:
            raise BadBody(f"Content-Type must be multipart/form-data, got {self.content_type or 'none'}")
        mark = b"--" + boundary.encode()
        first, *chunks, last = (b"\r\n" + self.body).split(b"\r\n" + mark)
        if first or not chunks or not last.startswith(b"--"):
            raise BadBody("the multipart body is broken")
        return [_part(chunk) for chunk in chunks]

    def contains(self, text: str) -> bool:
        """Whether `text` stands in the address, a header or the body."""
        places = [self.target, *self.headers.values(), self.body.decode("latin-1")]
        return any(text in place for place in places)


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pace: float = 0.0  # seconds over which the body trickles out
    cut: bool = False  # send half of the body, then reset
    stream: Iterator[bytes] | None = None  # instead of body; ends with the connection unless Content-Length is given

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> "Reply":
        """A JSON reply; underscores in header names become hyphens."""
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **names})


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def _part(chunk: bytes) -> Part:
    head, blank, data = chunk.partition(b"\r\n\r\n")
    if not blank:
        raise BadBody("a multipart part has no headers")
    headers = email.message_from_bytes(head.lstrip(b"\r\n"))
    name = headers.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise BadBody("a multipart part has no name")
    return Part(name, headers.get_filename(), headers.get_content_type(), data)
