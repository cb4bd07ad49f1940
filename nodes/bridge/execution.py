"""The one `Jobs` of this ComfyUI, and how a node waits for a job without blocking anybody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import comfy.model_management
import folder_paths
from comfy_api.latest import ComfyAPI
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..providers.contract import Cancelled, GenerationResult, Progress

if TYPE_CHECKING:
    from ..jobs.handle import Handle
    from ..jobs.job_record import JobRecord
    from ..jobs.jobs import Jobs

T = TypeVar("T")

LOOK = 0.03  # seconds between looks at the job and at the Cancel button
LOOK_FOR_END = 0.3  # seconds between looks whether a graph has ended
HISTORY_DEADLINE = 10.0  # seconds for ComfyUI to write down how a prompt ended


def private_folder() -> Path:
    """A system user's folder, which ComfyUI serves to nobody. Keys and the journal live here."""
    system_directory = getattr(folder_paths, "get_system_user_directory", None)
    if system_directory:
        return Path(system_directory("flux_krea"))
    return Path(folder_paths.get_user_directory()) / "__flux_krea"


_making = threading.Lock()


def jobs() -> Jobs:
    """The one of this process; made at the first run, not at start-up."""
    with _making:
        return _jobs()


@cache
def _jobs() -> Jobs:
    from ..jobs.jobs import Jobs  # it brings requests and sqlite3, which nobody needs before

    folder = private_folder()
    return Jobs(folder, folder / "pictures")


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """In a thread of its own: calls to a provider that hangs would soon take all of asyncio's few."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="krea-call", daemon=True).start()
    return await asyncio.wrap_future(future)


_running: dict[str, set[Handle]] = defaultdict(set)  # prompt id → its jobs under way


async def finished(handle: Handle) -> GenerationResult:
    """The handle's result. Shows progress on the node that is executing; Cancel stops every job of the prompt."""
    context = get_executing_context()
    siblings = _running[context.prompt_id]
    siblings.add(handle)
    shown = None
    try:
        while not handle.done():
            comfy.model_management.throw_exception_if_processing_interrupted()
            if handle.progress != shown:
                shown = handle.progress
                await show(shown, context.node_id)
            await asyncio.sleep(LOOK)
        return result_of(handle)
    except comfy.model_management.InterruptProcessingException:
        for job in list(siblings):
            job.cancel()
        raise
    except asyncio.CancelledError:
        threading.Thread(target=cancel_if_interrupted, args=(handle, context.prompt_id), daemon=True).start()
        raise
    finally:
        siblings.discard(handle)
        if not siblings:
            _running.pop(context.prompt_id, None)


def result_of(handle: Handle) -> GenerationResult:
    """The result; a job cancelled by another node's Cancel raises ComfyUI's interrupt."""
    try:
        return handle.result()
    except Cancelled:
        raise comfy.model_management.InterruptProcessingException() from None


def cancel_if_interrupted(handle: Handle, prompt_id: str) -> None:
    """ComfyUI ends waiting nodes alike on Cancel and when another node fails; only its history says which it was.

    After a failure the job goes on: what it makes is filed, and the next run takes it instead of paying again.
    """
    deadline = time.monotonic() + HISTORY_DEADLINE
    while time.monotonic() < deadline and not handle.done():
        entry = PromptServer.instance.prompt_queue.get_history(prompt_id=prompt_id).get(prompt_id)
        if entry:
            if any(message[0] == "execution_interrupted" for message in entry["status"]["messages"]):
                handle.cancel()
            return
        time.sleep(LOOK / 2)


_received: dict[str, set[str]] = defaultdict(set)  # prompt id → the tickets whose pictures its graph has got
_recording = threading.Lock()


def mark_received(ticket: str) -> None:
    """The graph that is executing has got these pictures; they count as collected when it has ended well.

    If it fails later, or ComfyUI is killed, they go on waiting in the list, and for the next run.
    """
    prompt_id = get_executing_context().prompt_id
    is_first = prompt_id not in _received
    _received[prompt_id].add(ticket)
    if is_first:
        threading.Thread(target=record_collected_when_done, args=(prompt_id,), name="krea-collect", daemon=True).start()


def is_in_running_graph(record: JobRecord) -> bool:
    """A graph that is still running has got its pictures."""
    tickets = set().union(*_received.values())
    return any(record.hash in ticket or record.id in ticket for ticket in tickets)


def record_collected_when_done(prompt_id: str) -> None:
    while prompt_id in _received:
        time.sleep(LOOK_FOR_END)
        record_collected()


def record_collected() -> None:
    """Writes down what the graphs that have ended well had got."""
    queue = PromptServer.instance.prompt_queue
    with _recording:
        running = {item[1] for item in list(queue.currently_running.values())}
        for prompt_id in _received.keys() - running:
            entry = queue.get_history(prompt_id=prompt_id).get(prompt_id)
            if entry and entry["status"]["status_str"] == "success":
                for ticket in _received[prompt_id]:
                    jobs().set_collected(ticket)
            del _received[prompt_id]


async def show(progress: Progress, node_id: str) -> None:
    server = PromptServer.instance
    server.send_progress_text(progress.text, node_id, server.client_id)
    if progress.fraction is not None:
        await ComfyAPI.Execution().set_progress(progress.fraction, 1.0, node_id=node_id)
