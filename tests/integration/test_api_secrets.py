"""No key anywhere it could be read or shared: after good runs, bad runs and providers that echo the key."""

import json
import threading
import uuid

import pytest
import requests
import websocket
from api_graphs import PROVIDERS, ApiGraph
from comfyui import ComfyUIError

FILE_KEY = "test-key-in-the-file-77aa01"
ECHOES = {
    "in the refusal of the submit": ("submit", "status", {"status": 422}),
    "in an error of the server": ("submit", "status", {"status": 500}),
    "in what became of the job": ("job", "failed", {}),
}


@pytest.fixture(scope="module")
def seen(comfyui, all_standins):
    """Everything that ComfyUI told its page, as text, during good and bad runs at every provider."""
    for standin in all_standins.values():
        standin.reset()
    messages, over = [], threading.Event()
    stream = websocket.create_connection(f"ws://127.0.0.1:{comfyui.port}/ws?clientId={uuid.uuid4().hex}", timeout=1)

    def listen():
        while not over.is_set():
            try:
                messages.append(str(stream.recv()))
            except websocket.WebSocketTimeoutException:
                continue

    listener = threading.Thread(target=listen)
    listener.start()
    keys = {"provider": "fal", "key": FILE_KEY}
    requests.post(f"{comfyui.url}/flux_krea/keys", json=keys, timeout=30).raise_for_status()
    for provider in PROVIDERS:
        told = run(comfyui, provider, "shown with its workflow")
        for echo, (phase, kind, options) in ECHOES.items():
            prompt = f"the key {echo}"
            words = f"Bad key {all_standins[provider].key}, really {all_standins[provider].key}"
            all_standins[provider].fault(phase, kind, 1, message=words, prompt=prompt, **options)
            told += run(comfyui, provider, prompt)
        messages.append(told)
    over.set()
    listener.join()
    stream.close()
    yield messages
    requests.post(f"{comfyui.url}/flux_krea/keys/remove", json={"provider": "fal"}, timeout=30).raise_for_status()


def run(comfyui, provider: str, prompt: str) -> str:
    """Everything that a run says, to its own page and to whoever asks."""
    told = []
    graph = ApiGraph()
    graph.api_shown(provider, prompt=prompt, seed=500)
    try:
        told.append(
            json.dumps(comfyui.run(graph, workflow={"nodes": [graph]}, on_event=lambda event: told.append(str(event))))
        )
    except ComfyUIError as error:
        told.append(json.dumps(error.details))
    return "\n".join(told)


@pytest.fixture
def secrets(all_standins):
    return [FILE_KEY, *(standin.key for standin in all_standins.values())]


def test_no_key_in_what_a_page_hears(seen, secrets):
    text = "\n".join(seen)
    assert "Bad key" in text and "execution_success" in text  # the bad and the good runs are both in it
    assert not [key for key in secrets if key in text]


@pytest.mark.parametrize("path", ["/history", "/queue", "/object_info", "/flux_krea/keys", "/flux_krea/waiting"])
def test_no_key_in_what_comfyui_answers(comfyui, seen, secrets, path):
    text = comfyui.get(path).text
    assert not [key for key in secrets if key in text]


def test_no_key_in_any_file_but_the_one_for_keys(comfyui, seen, secrets):
    """Pictures with their workflow, the journal, temp, the log: every byte under ComfyUI's folder but the models."""
    folders = [comfyui.base / name for name in ("output", "input", "temp", "user")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [path for path in comfyui.base.iterdir() if path.is_file()]
    names = {path.name for path in files}
    assert {"journal.sqlite3", "server.log", "keys.json"} <= names and any(name.startswith("api_") for name in names)
    with_key = {path.name for path in files if any(key.encode() in path.read_bytes() for key in secrets)}
    assert with_key == {"keys.json"}


def test_a_picture_carries_its_workflow_and_no_key(comfyui, seen, secrets):
    pictures = [path.read_bytes() for path in (comfyui.base / "output").glob("api_*.png")]
    assert any(b"shown with its workflow" in picture for picture in pictures)
    assert not [key for key in secrets for picture in pictures if key.encode() in picture]


def test_no_key_went_to_a_host_that_is_not_the_providers(seen, all_standins):
    for standin in all_standins.values():
        assert not [entry for entry in standin.state()["elsewhere"] if entry["key_seen"]]
