"""Runware's other door: the same tasks over a WebSocket, which its own client speaks.

A connection opens with an authentication task; every later message is an array of tasks, and its answer is what the
address answers. Each message has a thread of its own, for a task that runs holds up none that comes after it.
"""

import json
import threading

import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from .server import Standin


class RunwareSocket:
    """`url` is its address. Closes as a context manager."""

    def __init__(self, standin: Standin):
        self._standin = standin
        self._server: Server = serve(self._talk, "127.0.0.1", 0, max_size=None)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True, name="standin runware socket").start()

    def __enter__(self) -> "RunwareSocket":
        return self

    def __exit__(self, *_):
        self._server.shutdown()

    def _talk(self, connection: ServerConnection):
        key = None
        for message in connection:
            tasks = json.loads(message)
            if tasks[0].get("taskType") == "authentication":
                key = tasks[0].get("apiKey")
            threading.Thread(target=self._answer, args=(connection, tasks, key), daemon=True).start()

    def _answer(self, connection: ServerConnection, tasks: list, key: str | None):
        logs_in = tasks[0].get("taskType") == "authentication"
        headers = {"X-Forwarded-Host": "ws-api.runware.ai"} | ({} if logs_in else {"Authorization": f"Bearer {key}"})
        answer = requests.post(self._standin.base_url + "/v1", json=tasks, headers=headers, timeout=60).json()
        for error in answer.get("errors", []):
            error.setdefault("taskType", tasks[0].get("taskType"))
        try:
            connection.send(json.dumps(answer))
        except ConnectionClosed:
            pass  # the client went away, which it may
