"""Every fault at every provider, driven through `Jobs` over real HTTP: all cells at once, each known by its prompt."""

from __future__ import annotations

import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import own_machine
import pytest
from api_graphs import BLOCKING, PROVIDERS
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers.contract import GenerationRequest, Lora
from standins import start_all

PATIENCE = "2"  # seconds, as the server's environment sets it
TOGETHER = 20  # cells


PICTURE = ("picture", "picture")
UNKNOWN = ("UnknownOutcome", "UnknownOutcome")
FOUND_LATER = ("UnknownOutcome", "picture")
LISTS_JOBS = ("fal", "replicate", "wavespeed")  # where a job whose submit answer was lost can be found
COLUMNS = (*PROVIDERS, "fal with a LoRA")  # which is another of its apps
TAKES_OUR_ID = ("runware",)  # where the paid call can be sent again, and is paid once


@dataclass(frozen=True)
class Fault:
    """What goes wrong, where, how often (None: until it is taken away); what comes of it, and of the same run again."""

    name: str
    phase: str
    kind: str
    count: int | None
    options: dict
    outcomes: tuple[str, str]
    at: dict[str, tuple[str, str]]  # provider → its own outcomes
    play: own_machine.Play | None = None  # for what goes wrong on this machine

    def strike(self, standin, prompt: str) -> None:
        standin.fault(self.phase, self.kind, self.count, prompt=prompt, **self.options)

    def expected(self, column: str) -> tuple[str, str]:
        return self.at.get(provider_of(column), self.outcomes)


def provider_of(column: str) -> str:
    return column.split()[0]


def fault(name, kind, outcomes=PICTURE, count=1, at=None, **options) -> Fault:
    return Fault(name, name.partition(":")[0], kind, count, options, outcomes, at or {})


def lasting(name, kind, outcomes, **options) -> Fault:
    return fault(name, kind, outcomes, count=None, **options)


def found(outcomes, repeated=PICTURE) -> dict:
    """By looking into the list of jobs, or by sending the paid call again with the same id."""
    return dict.fromkeys(LISTS_JOBS, outcomes) | dict.fromkeys(TAKES_OUR_ID, repeated)


def again(outcomes=PICTURE) -> dict:
    """Where only a repeated paid call helps."""
    return dict.fromkeys(TAKES_OUR_ID, outcomes)


def here(name, play, outcomes=PICTURE, at=None) -> Fault:
    """What goes wrong on this machine."""
    return replace(fault(name, "", outcomes, at=at), play=play)


REFUSED = ("BadAnswer", "picture")
TOO_LARGE = ("TooLarge", "picture")
AWAY = ("Unavailable", "picture")
SPENT = ("GenerationFailed", "GenerationFailed")
REFUNDED = ("GenerationFailed", "picture")
REFUNDS = ("fal", "wavespeed")  # where a failure costs nothing
DELIVERS_FLAGGED = ("fal", "runware", "wavespeed")  # fal black, the others as it is
BALANCE = "Insufficient credits. Top up your balance."
FAULTS = [
    fault("submit: 500 once", "status", UNKNOWN, status=500, at={"fal": PICTURE, **again()}),
    lasting("submit: 500 for ever", "status", UNKNOWN, status=500, at={"fal": AWAY, **again(FOUND_LATER)}),
    fault("submit: 502 with a web page", "html", UNKNOWN, at=again()),
    fault("submit: 429 once, Retry-After 1", "status", status=429, retry_after=1),
    lasting("submit: 429 for ever", "status", ("RateLimited", "picture"), status=429, retry_after=1),
    fault("submit: reset before acceptance", "reset_before", UNKNOWN, at=again()),
    fault("submit: reset after acceptance", "reset_after", UNKNOWN, at=found(PICTURE)),
    fault("submit: hangs, accepted later", "hang", UNKNOWN, seconds=4, at=found(FOUND_LATER)),
    fault("submit: never answered", "black_hole", UNKNOWN, at=again()),
    fault("submit: malformed JSON", "malformed", UNKNOWN, at=found(PICTURE)),
    fault("submit: wrong-typed JSON", "wrong_type", UNKNOWN, at=found(PICTURE)),
    fault("submit: redirect to another host", "redirect", UNKNOWN, at=again()),
    fault("submit: 401", "status", ("KeyRefused", "picture"), status=401),
    fault("submit: 402 balance", "status", ("BalanceTooLow", "picture"), status=402),
    fault("submit: 403 balance", "status", ("BalanceTooLow", "picture"), status=403, message=BALANCE),
    fault("submit: 422", "status", ("RequestRefused", "picture"), status=422, message="steps must be at most 50"),
    fault("poll: 500 once", "status", status=500),
    lasting("poll: 500 for ever", "status", AWAY, status=500),
    fault("poll: 502 with a web page", "html"),
    fault("poll: 429 once, Retry-After 1", "status", status=429, retry_after=1),
    lasting("poll: 404 for ever", "status", FOUND_LATER, status=404),
    fault("poll: reset once", "reset_before"),
    fault("poll: malformed JSON once", "malformed"),
    fault("poll: wrong-typed JSON once", "wrong_type"),
    fault("poll: unknown status once", "unknown_status"),
    lasting("poll: black-holed for ever", "black_hole", AWAY),
    fault("result: 500 once", "status", status=500),
    lasting("result: 500 for ever", "status", AWAY, status=500),
    fault("result: 502 with a web page", "html"),
    fault("result: malformed JSON once", "malformed"),
    fault("result: reset once", "reset_before"),
    fault("picture: 404 once", "status", status=404),
    lasting("picture: 404 for ever", "status", ("Gone", "picture"), status=404),
    fault("picture: 500 once", "status", status=500),
    fault("picture: reset mid-body once", "reset_mid_body"),
    lasting("picture: garbage", "garbage", REFUSED),
    lasting("picture: a web page", "html", REFUSED, status=200),
    lasting("picture: endless", "endless", REFUSED),
    lasting("picture: bomb of 169 megapixels", "bomb", TOO_LARGE),
    lasting("picture: header claims 400 megapixels", "bomb_header", TOO_LARGE),
    lasting("picture: 104 MB", "huge", REFUSED),
    lasting("picture: slow body", "slow", AWAY, seconds=30),
    lasting("picture: expired address", "expired", ("Gone", "picture")),
    lasting("picture: redirect to another host", "redirect", REFUSED),
    fault("job: failed", "failed", SPENT, at={**dict.fromkeys(REFUNDS, REFUNDED), "lumenfall": UNKNOWN}),
    fault(
        "job: NSFW",
        "nsfw",
        ("ContentRefused", "ContentRefused"),
        at={**dict.fromkeys(DELIVERS_FLAGGED, PICTURE), "lumenfall": ("ContentRefused", "picture")},
    ),
    here("cancel: granted, and it is made all the same", own_machine.cancelled(200), ("Cancelled", "picture")),
    here("cancel: too late", own_machine.cancelled(400), ("Cancelled", "picture")),
    here("disk: full when the answer comes", own_machine.disk_full, AWAY),
    here("journal: held by another program when the answer comes", own_machine.journal_held, AWAY),
    here("journal: damaged when the answer comes", own_machine.journal_lost(own_machine.garbage)),
    here("journal: deleted when the answer comes", own_machine.journal_lost(own_machine.deleted)),
    here("journal: emptied when the answer comes", own_machine.journal_lost(own_machine.emptied)),
    here("journal: its row cannot be read", own_machine.row_broken),
    here("clock: 45 days ahead after a lost answer", own_machine.clock_jumps(45), UNKNOWN, found(FOUND_LATER)),
    here("clock: 45 days back after a lost answer", own_machine.clock_jumps(-45), UNKNOWN, found(FOUND_LATER)),
    here("lock: left by a process that was killed", own_machine.lock_orphaned, ("Gone", "picture")),
]
BY_NAME = {each.name: each for each in FAULTS}
CELLS = [
    (column, each)
    for each in FAULTS
    for column in COLUMNS
    if not (each.phase == "poll" and column in BLOCKING)
    and not (each.phase == "result" and provider_of(column) != "fal")
]


@dataclass
class Cell:
    """What came of a fault, and of the same run again when the fault was gone. `paid` counts jobs, as billed."""

    outcome: str
    sentence: str
    again: str
    again_sentence: str
    paid: int
    key_elsewhere: bool


def run_all() -> dict[tuple[str, str], Cell]:
    with (
        tempfile.TemporaryDirectory() as folder,
        start_all() as standins,
        pytest.MonkeyPatch.context() as patch,
        own_machine.watched(),
    ):
        for name, value in {**standins.env, "FLUX_KREA_PATIENCE_SECONDS": PATIENCE}.items():
            patch.setenv(name, value)
        jobs = Jobs(Path(folder) / "private", Path(folder) / "pictures")
        with ThreadPoolExecutor(TOGETHER) as pool:
            folders = [Path(folder) / str(number) for number in range(len(CELLS))]
            cells = list(
                pool.map(lambda cell, own: run_cell(jobs, standins[provider_of(cell[0])], *cell, own), CELLS, folders)
            )
        jobs.close()
    return {(column, each.name): cell for (column, each), cell in zip(CELLS, cells, strict=True)}


def run_cell(jobs: Jobs, standin, column: str, each: Fault, folder: Path) -> Cell:
    """`folder` is for what goes wrong on this machine: its own journal."""
    prompt, provider = prompt_of(each, column), provider_of(column)
    loras = () if column == provider else (Lora("owner/style", 0.8),)
    request = GenerationRequest(prompt, width=512, height=512, steps=12, seed=7, loras=loras)
    if each.play:
        machine = own_machine.Machine(folder, standin, provider, request)
        (outcome, sentence), (again, again_sentence) = each.play(machine)
        machine.close()
    else:
        each.strike(standin, prompt)
        outcome, sentence = own_machine.end_of(jobs.start(provider, request))
        take_away(standin, each, prompt)
        again, again_sentence = own_machine.end_of(jobs.start(provider, request))
    leaked = any(entry["key_seen"] for entry in standin.elsewhere)
    return Cell(outcome, sentence, again, again_sentence, paid_for(standin, prompt), leaked)


def prompt_of(each: Fault, column: str) -> str:
    return f"{each.name} at {column}.".lower()  # "NSFW" in a prompt would be a fault of its own


def take_away(standin, each: Fault, prompt: str) -> None:
    """What hangs has ended when this returns."""
    with standin.lock:
        standin.faults[:] = [fault for fault in standin.faults if fault.options["prompt"] != prompt]
    time.sleep(each.options["seconds"] if each.kind == "hang" else 0)


def paid_for(standin, prompt: str) -> int:
    provider = standin.provider
    return sum(provider.is_billed(job) for job in provider.all_jobs() if job.prompt == prompt)


def outcome_table(cells: dict[tuple[str, str], Cell]) -> str:
    lines = ["| fault | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for each in FAULTS:
        row = [shown(cells[column, each.name]) if (column, each) in CELLS else "" for column in COLUMNS]
        lines.append(f"| {each.name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def shown(cell: Cell) -> str:
    if cell.outcome == cell.again:
        return "picture" if cell.outcome == "picture" else f"{cell.outcome} twice"
    return f"{cell.outcome}, then {cell.again}"


def sentence_table(cells: dict[tuple[str, str], Cell]) -> str:
    lines = ["| fault | provider | what the user reads |", "|---|---|---|"]
    lines += [
        f"| {name} | {column} | {without_names(cell.sentence)} |"
        for (column, name), cell in cells.items()
        if cell.sentence
    ]
    return "\n".join(lines)


def without_names(sentence: str) -> str:
    """Without the names of this run's jobs and folders."""
    return re.sub(r"\bat \S+[/\\]\d+\S*?\. ", "at … ", re.sub(r"\(job [0-9a-f]{32}\)", "(job …)", sentence))
