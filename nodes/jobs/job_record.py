"""One paid call as the journal keeps it, and the states it goes through.

    reserved ──► sending ──► accepted ──► delivered ──► done
        │           └──► unknown ──┘
        └──────────────► failed, spent, cancelled

`reserved`: the price is set aside, nothing has left. `sending`: the paid call may have left. `accepted`: the provider
holds the job. `delivered`: the pictures' addresses are known. `done`: the pictures are on disk. `unknown`: the paid
call left and its answer was lost. `failed`: no picture and nothing paid. `spent`: no picture, and paid or perhaps paid:
what was refused for its content would be again, for money again. `cancelled`: stopped at the provider by a person.
Each state is on disk before the step that it announces.

A job is collected once a graph that received its pictures has ended well, or a person has dismissed it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..providers.contract import Job

RESERVED, SENDING, ACCEPTED, DELIVERED, DONE = "reserved", "sending", "accepted", "delivered", "done"
UNKNOWN, FAILED, SPENT, CANCELLED = "unknown", "failed", "spent", "cancelled"
PAID = (ACCEPTED, DELIVERED)  # certainly paid, and the picture is still to be had
TO_COLLECT = (SENDING, UNKNOWN, *PAID)  # money is, or may be, spent and no picture is here
REUSABLE = (RESERVED, *TO_COLLECT, DONE, SPENT)  # what stands for its payload when the same is asked again
NOTHING_PAID = (RESERVED, FAILED)
STEPS = (RESERVED, SENDING, UNKNOWN, ACCEPTED, DELIVERED, DONE, FAILED, SPENT, CANCELLED)  # in this order

CLOCKS_AGREE = 10.0  # seconds that the wall clock and the uptime may differ
uptime = time.monotonic  # the same for all processes

CANCEL_ASKED = "cancel asked"  # as a note: a person stopped it, and the provider has not said yet how it ended
GONE_ONCE = "its address does not have the picture"


@dataclass
class JobRecord:
    """`owner` is the process that works on it; times in seconds since 1970; `pictures` are file names in the pictures
    folder; `reserved` and `billed` in US dollars; `budget_key` names the run whose limit it counts for; `seedless_key`
    is the request but for its seed, and the seed, where that was drawn at random."""

    provider: str
    endpoint: str
    hash: str  # of the exact payload and image
    request: Mapping[str, Any]  # all but the image
    budget_key: str = ""
    reserved: float | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = RESERVED
    owner: str | None = None
    created: float = field(default_factory=time.time)
    sent: float | None = None
    updated: float = 0.0
    job: Job | None = None
    delivery: Mapping[str, Any] | None = None
    pictures: list[str] = field(default_factory=list)
    bytes: int = 0
    billed: float | None = None
    note: str = ""
    collected: float | None = None
    seedless_key: str = ""
    sent_uptime: float | None = None  # when it was sent, by this machine's uptime in seconds

    @property
    def waits_as(self) -> str:
        """What a list of waiting jobs says of it."""
        return "under way" if self.owner else {DONE: "ready", UNKNOWN: "answer lost"}.get(self.state, "interrupted")

    @property
    def is_put_aside(self) -> bool:
        """A person does not wait for it any more: it stands in the way of no new order."""
        return self.state in (UNKNOWN, SPENT) and self.collected is not None

    @property
    def sent_at(self) -> str:
        """When the paid call left, by this machine's clock, for people."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.sent or self.created))

    @property
    def seconds_since_sent(self) -> float | None:
        """Since the paid call left, where two clocks agree on it, else None: people set the one, and the other, the
        machine's uptime, begins anew when it starts and may stand still while it sleeps."""
        if self.sent is None or self.sent_uptime is None:
            return None
        by_clock, by_uptime = time.time() - self.sent, uptime() - self.sent_uptime
        agree = by_uptime >= 0 and abs(by_clock - by_uptime) < CLOCKS_AGREE
        return by_uptime if agree else None

    @property
    def most_seconds_since_sent(self) -> float:
        """By whichever clock says more: for a look into the past that must not stop too early."""
        by_uptime = 0.0 if self.sent_uptime is None else uptime() - self.sent_uptime
        return max(0.0, time.time() - (self.sent or self.created), by_uptime)

    def as_json(self) -> str:
        return json.dumps(asdict(self), default=dict)


FIELDS = tuple(field.name for field in fields(JobRecord))


def record_of(text: str) -> JobRecord:
    """The record that `as_json` wrote. Raises ValueError for anything else."""
    values = json.loads(text)
    if not isinstance(values, dict) or not {"id", "hash", "state", "provider", "endpoint", "request"} <= values.keys():
        raise ValueError("not the record of a job")
    return checked(JobRecord(**{name: values[name] for name in FIELDS if name in values}))


def checked(record: JobRecord) -> JobRecord:
    """Raises ValueError for a record that `as_json` cannot have written."""
    maps = (record.request, record.job or {}, record.delivery or {})
    numbers = (
        record.reserved,
        record.created,
        record.sent,
        record.sent_uptime,
        record.updated,
        record.bytes,
        record.billed,
        record.collected,
    )
    texts = (record.id, record.hash, record.provider, record.endpoint, record.budget_key, record.owner or "")
    is_sound = (
        record.state in STEPS
        and all(isinstance(value, Mapping) for value in maps)
        and all(value is None or isinstance(value, (int, float)) for value in numbers)
        and all(isinstance(value, str) for value in (*texts, record.note, record.seedless_key, *record.pictures))
    )
    if not is_sound:
        raise ValueError("not the record of a job")
    return record
