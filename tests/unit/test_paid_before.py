"""What an earlier version paid for is found again: the same request has the same ticket as it had in version 0.1.0.

The tickets were written by that version. They are never written anew: a change here means that a picture, paid for before
an update, is paid for a second time.
"""

import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.contract import IMAGE_TO_IMAGE, REDUX, GenerationRequest, OverBudget
from standins.plain_client import png

TICKETS = Path(__file__).parent / "tickets_of_0_1_0.json"
JOURNAL = Path(__file__).parent / "journal_of_0_1_0.sql"  # one picture, paid for and never collected
# Its bytes are part of a ticket: a PNG's header and nothing more, the same with every library.
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (64).to_bytes(4, "big") * 2
PROVIDERS = ("core_today", "fal", "lumenfall", "one_min", "replicate")
TEXT = GenerationRequest("A ceramicist at her wheel, 35mm film", seed=20260731)
IMAGE = replace(TEXT, mode=IMAGE_TO_IMAGE, image=PNG, strength=0.6)
OTHER = replace(TEXT, width=512, height=768, steps=12, guidance=3.5, seed=2**40 + 7, safety_checker=False,
                acceleration="high", output_format="jpeg", quality=80)  # fmt: skip
REQUESTS = {
    "text": TEXT,
    "image": IMAGE,
    "other": OTHER,
    "five pictures": replace(TEXT, images=5),
    "extra": replace(TEXT, extra={"one_of_its_own": 1}),
}
CASES = [(name, case) for name in PROVIDERS for case in REQUESTS] + [("fal", "redux")]


def request_of(case: str) -> GenerationRequest:
    return replace(IMAGE, mode=REDUX, prompt="") if case == "redux" else REQUESTS[case]


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    yield from jobs_in(tmp_path, monkeypatch)


@pytest.fixture
def jobs_of_0_1_0(tmp_path, monkeypatch):
    """With the journal that version 0.1.0 left an hour ago."""
    for folder in ("private", "pictures"):
        (tmp_path / folder).mkdir()
    with sqlite3.connect(tmp_path / "private" / "journal.sqlite3") as journal:
        journal.executescript(JOURNAL.read_text("utf-8"))
        journal.execute("UPDATE jobs SET created = :then, sent = :then, updated = :then", {"then": time.time() - 3600})
    journal.close()
    (tmp_path / "pictures" / "c76384d8c03f4eb0a0771327fe014b6e-0.png").write_bytes(png((64, 64)))
    yield from jobs_in(tmp_path, monkeypatch)


def jobs_in(tmp_path, monkeypatch):
    for name in PROVIDERS:
        monkeypatch.setenv(providers()[name].key_variable, "test-key")
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name.upper()}", "http://127.0.0.1:1")
    jobs = Jobs(tmp_path / "private", tmp_path / "pictures")
    yield jobs
    jobs.close()


@pytest.mark.parametrize(("name", "case"), CASES, ids=" ".join)
def test_a_request_of_version_0_1_0_has_the_same_ticket(jobs, name, case):
    handle = jobs.start(name, request_of(case), max_cost_usd=0.0)  # its ticket is there before anything is paid
    with pytest.raises(OverBudget):
        handle.future.result(10)
    assert handle.ticket == json.loads(TICKETS.read_text("utf-8"))[f"{name} {case}"]


SMALL = replace(TEXT, width=64, height=64, steps=12)


@pytest.mark.parametrize(
    ("request_now", "drawn_by"), [(SMALL, ""), (replace(SMALL, seed=5), "a run of today")], ids=["its seed", "seed -1"]
)
def test_a_picture_paid_for_by_version_0_1_0_is_taken_and_not_paid_again(jobs_of_0_1_0, request_now, drawn_by):
    result = jobs_of_0_1_0.start("fal", request_now, max_cost_usd=0.0, drawn_by=drawn_by).future.result(10)
    assert (result.reused, result.seed, result.estimate.usd) == (1, 20260731, 0.0)
    assert result.pictures[0].width == 64
