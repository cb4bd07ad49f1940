"""kill -9 at random instants with a job at every provider under way; then the same again, to its end.

Most kills hit a process that runs the pack's library alone, every tenth a whole ComfyUI. After that the long form of
tests/unit/test_paid_path.py: random interleavings of everything that can happen to a paid call, several processes.
`python dev.py bench crash KILLS EXAMPLES`.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from api_graphs import PROVIDERS, ApiGraph
from bench._crash_run import columns, prompt_of
from comfyui import ROOT, ComfyUI, ComfyUIError
from standins import start_all

KILLS = 50
EXAMPLES = 100  # of STEPS steps each
STEPS = 40
LIFE = 2.8  # seconds of the longest run, and the latest instant of a kill
PAGE = ROOT / "docs" / "api_crash.md"
PACE = {"queue_seconds": 0.25, "job_seconds": 0.35, "download_seconds": 0.3, "delays": {"submit": 0.15}}


def run(arguments):
    kills = int(arguments[0]) if arguments else KILLS
    examples = int(arguments[1]) if arguments[1:] else EXAMPLES
    if kills:
        yield killed(kills)
    if examples:
        yield interleaved(examples)


def killed(kills: int) -> dict:
    with start_all(**PACE) as standins, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **standins.env, "FLUX_KREA_PATIENCE_SECONDS": "20"}
        whole = max(1, kills // 10)
        found = []
        for turn in range(kills - whole):
            found += killed_library(Path(folder) / str(turn), f"crash {turn}", environment, standins)
        found += killed_comfyui(Path(folder) / "comfyui", whole, environment, standins)
    if os.environ.get("FLUX_KREA_WRITE_DOCS") == "1":
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(found, kills, whole), encoding="utf-8")
    most = max(each["paid"] for each in found)
    lost = sum(each["paid"] and each["ended"] == "lost" for each in found)
    unit = f"jobs paid for one request, at most; {len(found)} requests, {lost} paid pictures lost"
    return {"bench": "crash", "ours": most, "reference": 1, "ratio": most, "unit": unit, "n": kills, "device": "cpu"}


def interleaved(examples: int) -> dict:
    """Fails with the story of what was done where a promise was broken."""
    sys.path.append(str(ROOT / "tests" / "unit"))
    import conftest  # noqa: F401  loads the pack
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test
    from paid_path import UNHURRIED, PaidPath

    try:
        run_state_machine_as_test(
            PaidPath, settings=settings(UNHURRIED, max_examples=examples, stateful_step_count=STEPS)
        )
    finally:
        PaidPath.forks.close()
    unit = (
        f"promises broken in {PaidPath.steps} random steps; {PaidPath.examples} stories, {PaidPath.jobs_paid} jobs paid"
    )
    n = PaidPath.steps
    return {"bench": "crash", "ours": 0, "reference": 0, "ratio": 1, "unit": unit, "n": n, "device": "cpu"}


def killed_library(folder: Path, prompt: str, environment, standins) -> list[dict]:
    command = [sys.executable, str(Path(__file__).with_name("_crash_run.py")), str(folder), prompt]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_start(folder, process)
    time.sleep(random.uniform(0, LIFE))
    process.kill()
    process.wait()
    states = journal_states(folder)
    wait_for_the_end(standins)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    ended = json.loads(again.stdout)
    return [observed(name, prompt, states, ended[name], standins) for name in columns(PROVIDERS)]


def killed_comfyui(base: Path, count: int, environment, standins) -> list[dict]:
    found = []
    comfyui = ComfyUI(base, arguments=("--cpu",), environment=environment)
    comfyui.start()
    for turn in range(count):
        prompt = f"whole crash {turn}"
        submit = ApiGraph("FluxKreaSubmit")
        for name, (provider, loras) in columns(PROVIDERS).items():
            submit.api(provider, prompt=prompt_of(name, prompt), loras=loras)
        comfyui.queue(submit)
        time.sleep(random.uniform(0, LIFE))
        comfyui.kill()
        states = journal_states(base)
        wait_for_the_end(standins)
        comfyui.start()
        for name in columns(PROVIDERS):
            found.append(observed(name, prompt, states, run_again(comfyui, name, prompt), standins))
    comfyui.stop()
    return found


def run_again(comfyui: ComfyUI, name: str, prompt: str) -> str:
    graph, (provider, loras) = ApiGraph(), columns(PROVIDERS)[name]
    graph.api_shown(provider, prompt=prompt_of(name, prompt), loras=loras)
    try:
        return "picture" if comfyui.pictures(comfyui.run(graph)) else "nothing"
    except ComfyUIError as error:
        return f"UnknownOutcome: {error}" if "perhaps pay twice" in str(error) else str(error)


def observed(name: str, prompt: str, states: dict, ended: str, standins) -> dict:
    provider, prompt = columns(PROVIDERS)[name][0], prompt_of(name, prompt)
    jobs = standins[provider].state()["jobs"]
    told = ended.startswith("UnknownOutcome") and "perhaps pay twice" in ended
    return {
        "provider": name,
        "state": states.get((provider, prompt), "nothing on disk yet"),
        "ended": "picture" if ended == "picture" else "told" if told else "lost",
        "paid": sum(job["billed"] for job in jobs if job["prompt"] == prompt),
    }


def wait_for_start(folder: Path, process: subprocess.Popen) -> None:
    """The instant of the kill counts from the journal's first sign, not from Python's start."""
    while not (folder / "journal.sqlite3").exists() and process.poll() is None:
        time.sleep(0.01)


def wait_for_the_end(standins) -> None:
    """Providers go on without us; a list of finished jobs shows the last one then."""
    time.sleep(PACE["queue_seconds"] + PACE["job_seconds"] + PACE["delays"]["submit"])
    assert all(job["stage"] == "done" for standin in standins.values() for job in standin.state()["jobs"])


def journal_states(folder: Path) -> dict[tuple[str, str], str]:
    """(provider, prompt) → the state of its job on disk."""
    rows = []
    for path in folder.rglob("journal.sqlite3"):
        with closing(sqlite3.connect(path)) as journal, suppress(sqlite3.OperationalError):  # no table yet
            rows += journal.execute("SELECT provider, request, state FROM jobs")
    return {(provider, json.loads(request)["prompt"]): state for provider, request, state in rows}


def page(found: list[dict], kills: int, whole: int) -> str:
    counts = Counter((each["provider"], each["state"], each["ended"], each["paid"]) for each in found)
    lines = [f"| {' | '.join(map(str, key))} | {count} |" for key, count in sorted(counts.items())]
    table = "\n".join(
        ["| provider | state on disk at the kill | the same run again | jobs paid | times |", "|---" * 5 + "|", *lines]
    )
    most = max(each["paid"] for each in found)
    lost = sum(each["paid"] and each["ended"] == "lost" for each in found)
    return f"""# kill -9 at random instants

Written by `python dev.py bench crash` with `FLUX_KREA_WRITE_DOCS=1`. {kills} kills, each with one job at every provider
under way against the stand-ins, and one more at fal with a LoRA, which is another of its apps: {kills - whole} of a process
that runs the pack's library, {whole} of a whole ComfyUI. Then the same run again, to its end.

**Jobs paid for one request: at most {most}. Paid pictures lost without a word: {lost}.** "told" is the error that says that
the answer to the paid call was lost with the process, that nobody can look it up at this provider, and that nothing is sent
again unless the user asks for it: Lumenfall and 1min.ai answer the paid call with the picture, and core.today lists no jobs.

{table}
"""
