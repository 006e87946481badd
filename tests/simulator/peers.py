"""Who speaks with the stand-in in these tests: a plain client, and a receiver of webhooks that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

API_KEY = "fake-api-key"
WEBHOOK_KEY = "fake-webhook-key"
LIST = "/b/pbl/v2/card/"
SECONDS = 60.0  # a deadline: only a bug takes so long


class Ottu:
    """A client as plain as can be, so that nothing hides what the stand-in answers."""

    def __init__(self, base_url: str, api_key: str = API_KEY) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"}
        self.http = httpx.Client(base_url=base_url, headers=headers, timeout=SECONDS, trust_env=False)

    def list(self, customer_id: str, environment: str = "sandbox", **more: Any) -> httpx.Response:
        return self.http.post(LIST, json={"type": environment, "customer_id": customer_id, **more})

    def delete(self, customer_id: str, token: str, environment: str = "sandbox") -> httpx.Response:
        params = {"customer_id": customer_id, "type": environment}
        return self.http.delete(f"{LIST}{token}/", params=params)


class Receiver:
    """Takes webhooks; ``answers`` are statuses in order, the last one for good; "hang" waits for ``release``.

    ``on_body`` is called for each, before it is answered.
    """

    def __init__(self) -> None:
        self.answers: list[int | str] = [200]
        self.on_body: Callable[[], object] = lambda: None
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with lock:
                    receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                    receiver.headers.append(dict(self.headers))
                    receiver.on_body()
                    answers = receiver.answers
                    answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer == "hang":
                    receiver.release.wait(SECONDS)
                    return
                self.send_response(int(answer))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhooks/ottu"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
