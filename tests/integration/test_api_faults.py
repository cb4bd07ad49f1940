"""Everything that can go wrong at a provider: what the user reads, what was paid, and that no paid picture is lost."""

import os
import re
import threading
import time
from pathlib import Path

import fault_table
import psutil
import pytest
from api_graphs import ApiGraph
from comfyui import ROOT, ComfyUIError
from fault_table import BY_NAME, CELLS, provider_of

PAGE = ROOT / "docs" / "api_faults.md"
SAYS_MONEY = re.compile(r"paid|bill|[Nn]othing was (accepted|sent)")
SAYS_WHAT_NEXT = re.compile(r"(?i)run again|try again|top up|buy credits|check the key|change the|look at")


@pytest.fixture(scope="module")
def cells():
    found = fault_table.run_all()
    if os.environ.get("FLUX_KREA_WRITE_DOCS") == "1":
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(found), encoding="utf-8")
    return found


def page(found) -> str:
    paid = max(cell.paid for cell in found.values())
    return f"""# Faults at the providers

Written by `tests/integration/test_api_faults.py` from a run against the stand-in providers, which misbehave on request
over real HTTP and count what they would bill. `FLUX_KREA_WRITE_DOCS=1` writes it anew; the suite fails when it is stale.

{len(found)} cells. Each is a run with the fault and the same run again without it: "BadAnswer, then picture" is an error
and then the picture, without a second payment. **Jobs paid: at most {paid} in every cell, also after the second run.
Paid pictures lost at a provider that can still hand them out: {lost_at_listing_providers(found)}.** UnknownOutcome twice
means that the answer to the paid call was lost and that the job is in no list of the provider's, or that it keeps none:
the user is told so, and nothing is sent again by itself. Runware takes an id of ours with the call: there it is sent
again, and is paid once.

{fault_table.outcome_table(found)}

## What the user reads

{fault_table.sentence_table(found)}
"""


def lost_at_listing_providers(found) -> int:
    """Where the provider withheld the picture itself there is none to lose."""
    return sum(
        cell.paid and cell.again != "picture" and cell.outcome != "ContentRefused"
        for (column, _), cell in found.items()
        if provider_of(column) in fault_table.LISTS_JOBS
    )


@pytest.mark.parametrize("column, fault", CELLS, ids=lambda value: getattr(value, "name", value))
def test_a_fault_ends_as_it_should_and_is_paid_at_most_once(cells, column, fault):
    cell = cells[column, fault.name]
    assert (cell.outcome, cell.again) == fault.expected(column), (cell.sentence, cell.again_sentence)
    assert cell.paid <= 1
    assert not cell.key_elsewhere
    for sentence in filter(None, (cell.sentence, cell.again_sentence)):
        assert SAYS_MONEY.search(sentence) and SAYS_WHAT_NEXT.search(sentence), sentence


def test_a_second_payment_is_never_made_where_the_first_is_unknown(cells):
    unknown = [cell for cell in cells.values() if cell.again == "UnknownOutcome"]
    assert unknown and all("reuse off" in cell.again_sentence for cell in unknown)


def test_what_was_paid_comes_back_from_every_provider_that_lists_its_jobs(cells):
    listing = [cell for (column, _), cell in cells.items() if provider_of(column) in fault_table.LISTS_JOBS]
    assert sum(cell.paid for cell in listing) > 50
    assert lost_at_listing_providers(cells) == 0


def test_where_others_can_only_say_unknown_a_call_with_an_id_of_ours_is_paid_once_and_delivers(cells):
    lost = {name for (_, name), cell in cells.items() if name.startswith("submit") and cell.again == "UnknownOutcome"}
    repeated = [cells[column, name] for column in fault_table.TAKES_OUR_ID for name in lost]
    assert len(repeated) > 5 and {(cell.again, cell.paid) for cell in repeated} == {("picture", 1)}


def test_the_docs_page_says_what_the_run_found(cells):
    assert fault_table.outcome_table(cells) in PAGE.read_text("utf-8")


# In a real ComfyUI

IN_COMFYUI = [
    ("fal", "submit: reset after acceptance"),
    ("replicate", "submit: hangs, accepted later"),
    ("lumenfall", "submit: 429 for ever"),
    ("core_today", "submit: malformed JSON"),
    ("one_min", "submit: 401"),
    ("lumenfall", "submit: 402 balance"),
    ("replicate", "submit: 422"),
    ("core_today", "poll: 500 once"),
    ("fal", "poll: black-holed for ever"),
    ("fal", "result: 500 once"),
    ("one_min", "picture: 404 for ever"),
    ("core_today", "picture: a web page"),
    ("replicate", "job: NSFW"),
    ("runware", "submit: reset after acceptance"),
    ("wavespeed", "submit: malformed JSON"),
]
GIANTS = [
    ("lumenfall", "picture: endless"),
    ("fal", "picture: bomb of 169 megapixels"),
    ("core_today", "picture: header claims 400 megapixels"),
    ("one_min", "picture: 104 MB"),
]
HALF_A_GIGABYTE = 2**29


def run_with(comfyui, provider: str, prompt: str) -> tuple[str, str]:
    """The outcome as the table names it, and the sentence that ComfyUI shows."""
    graph = ApiGraph()
    graph.api_shown(provider, prompt=prompt)
    try:
        history = comfyui.run(graph)
    except ComfyUIError as error:
        return error.details["exception_type"].rpartition(".")[2], str(error)
    return ("picture" if all(map(Path.exists, comfyui.pictures(history))) else "nothing"), ""


def check(comfyui, standins, provider: str, name: str) -> None:
    fault, standin = BY_NAME[name], standins[provider]
    prompt = fault_table.prompt_of(fault, provider)
    fault.strike(standin, prompt)
    outcome, sentence = run_with(comfyui, provider, prompt)
    fault_table.take_away(standin, fault, prompt)
    again, again_sentence = run_with(comfyui, provider, prompt)
    assert (outcome, again) == fault.expected(provider), (sentence, again_sentence)
    for text in filter(None, (sentence, again_sentence)):
        assert SAYS_MONEY.search(text) and SAYS_WHAT_NEXT.search(text)
    assert fault_table.paid_for(standin, prompt) <= 1
    assert comfyui.get("/system_stats").ok


@pytest.mark.parametrize("provider, name", IN_COMFYUI)
def test_a_fault_ends_in_comfyui_as_in_the_table(hasty, standins, provider, name):
    check(hasty, standins, provider, name)


@pytest.mark.parametrize("provider, name", GIANTS)
def test_a_giant_picture_takes_no_memory(hasty, standins, provider, name):
    run_with(hasty, "fal", "a run that loads what the first one loads")
    process = psutil.Process(hasty.process.pid)
    idle, peak, over = process.memory_info().rss, 0, threading.Event()

    def watch():
        nonlocal peak
        while not over.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        check(hasty, standins, provider, name)
    finally:
        over.set()
        watcher.join()
    assert peak - idle < HALF_A_GIGABYTE
