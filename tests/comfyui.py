"""A real ComfyUI with this pack, as a subprocess, driven over HTTP and websocket. No mock anywhere.

`COMFYUI_PATH` and `COMFYUI_PYTHON` choose another ComfyUI than the one that dev.py downloads.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import requests
import websocket
from links import link_folder

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".dev" / "comfyui-0.3.75")
PYTHON = os.environ.get("COMFYUI_PYTHON") or sys.executable
PACK_FOLDER = "flux-krea"
FLAGS = ("--disable-auto-launch", "--disable-api-nodes", "--use-pytorch-cross-attention")
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en", "Comfy.Minimap.Visible": False}


class ComfyUIError(Exception):
    """A prompt that ComfyUI refused or that ended in an error; `details` is what ComfyUI said, whole."""

    def __init__(self, message: str, details):
        super().__init__(message)
        self.details = details


class ComfyUI:
    """One server process on its own base folder: models, custom nodes, input, output and user data lie in `base`."""

    def __init__(self, base: Path, *, arguments: tuple[str, ...] = (), environment: dict | None = None, port: int = 0):
        self.base = base
        self.arguments = arguments
        self.environment = environment or {}
        self.port = port or free_port()
        self.log_path = base / "server.log"
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Makes the folders, links this pack (and the tests' probe nodes, where asked) into custom_nodes."""
        for name in ("models", "input", "output", "temp", "custom_nodes", "user/default"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link_folder(self.base / "custom_nodes" / PACK_FOLDER, ROOT)
        settings = self.base / "user" / "default" / "comfy.settings.json"
        if not settings.exists():
            settings.write_text(json.dumps(SETTINGS))
        example = ROOT / "tests" / "example.png"
        if not (self.base / "input" / "example.png").exists():
            shutil.copy(example, self.base / "input" / "example.png")

    def command(self) -> list[str]:
        database = "sqlite:///" + str(self.base / "comfyui.db")
        return [
            PYTHON, str(COMFYUI / "main.py"), "--base-directory", str(self.base), "--port", str(self.port),
            "--listen", "127.0.0.1", "--database-url", database, *FLAGS, *self.arguments,
        ]  # fmt: skip

    def start(self, seconds: float = 180) -> ComfyUI:
        self.prepare()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **self.environment}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.base, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ComfyUIError(f"ComfyUI ended with {self.process.returncode}:\n{self.log()[-3000:]}", None)
            try:
                requests.get(f"{self.url}/system_stats", timeout=2).raise_for_status()
                return self
            except requests.RequestException:
                time.sleep(0.2)
        self.kill()
        raise ComfyUIError(f"ComfyUI did not answer within {seconds:.0f} s:\n{self.log()[-3000:]}", None)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """As `kill -9` does: nothing is cleaned up."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            self.process.wait(15)

    def __enter__(self) -> ComfyUI:
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def get(self, path: str, **parameters):
        answer = requests.get(self.url + path, params=parameters, timeout=30)
        answer.raise_for_status()
        return answer

    def post(self, path: str, body, **options) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=30, **options)

    def object_info(self) -> dict:
        return self.get("/object_info").json()

    def queue(self, graph: dict, workflow: dict | None = None, client_id: str = "tests") -> str:
        """Queues a graph in API format and returns the prompt's id; raises when ComfyUI refuses any part of it."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        answer = self.post("/prompt", {"prompt": graph, "client_id": client_id, "extra_data": extra})
        body = answer.json()
        if answer.status_code != 200 or body.get("node_errors"):
            raise ComfyUIError(refusal(body), body)
        return body["prompt_id"]

    def run(self, graph: dict, workflow: dict | None = None, on_event=None, seconds: float = 300) -> dict:
        """Runs a graph to its end and returns its history entry; raises ComfyUIError when it ends in an error."""
        client_id = uuid.uuid4().hex
        stream = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={client_id}", timeout=seconds)
        try:
            prompt_id = self.queue(graph, workflow, client_id)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                message = stream.recv()
                if isinstance(message, bytes):
                    continue  # a preview picture
                event = json.loads(message)
                if on_event:
                    on_event(event)
                data = event.get("data", {})
                if data.get("prompt_id") != prompt_id:
                    continue
                if event["type"] == "execution_error":
                    raise ComfyUIError(data["exception_message"].strip(), data)
                if event["type"] == "execution_interrupted":
                    raise ComfyUIError("interrupted", data)
                if event["type"] == "execution_success":
                    return self.history(prompt_id)
        finally:
            stream.close()
        raise ComfyUIError(f"the prompt did not end within {seconds:.0f} s", None)

    def history(self, prompt_id: str) -> dict:
        for _ in range(100):
            entry = self.get(f"/history/{prompt_id}").json().get(prompt_id)
            if entry:
                return entry
            time.sleep(0.05)
        raise ComfyUIError(f"no history for {prompt_id}", None)

    def pictures(self, history: dict) -> list[Path]:
        """The files that SaveImage and PreviewImage wrote for this run."""
        return [
            self.base / image["type"] / image.get("subfolder", "") / image["filename"]
            for output in history["outputs"].values()
            for image in output.get("images", [])
        ]

    def to_api(self, workflow: dict) -> dict:
        """A saved workflow (page format) as the graph that the page would queue."""
        from comfy_cli.workflow_to_api import convert_ui_to_api

        return convert_ui_to_api(workflow, self.object_info())


def refusal(body: dict) -> str:
    """Every sentence in ComfyUI's answer to a prompt it did not take."""
    sentences = [body["error"]["message"]] if body.get("error") else []
    for errors in (body.get("node_errors") or {}).values():
        sentences += [f"{error['message']}: {error['details']}" for error in errors["errors"]]
    return "\n".join(sentences) or json.dumps(body)


def until(happened, seconds: float = 10) -> None:
    """Returns when `happened()` is true; fails when it does not become so."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
