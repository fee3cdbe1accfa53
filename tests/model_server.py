"""A real HTTP server that speaks OpenAI's schema, for tests."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ModelServer:
    """Answers by `model`, unless `fault` has dealt with the request (it gets how often its prompt came).

    A prompt is a text, or of `/completions` the token ids that were sent. `models` is what it says it has.
    """

    def __init__(self, model: Callable[[Any], str]) -> None:
        self.answered: Counter[Any] = Counter()
        self.models: list[dict[str, str]] = []
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.fault = lambda handler, prompt, count: False
        self.lock = threading.Lock()
        seen: Counter[Any] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, json.dumps({"object": "list", "data": outer.models}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][0]["content"] if "messages" in body else tuple(body["prompt"])
                with outer.lock:
                    seen[prompt] += 1
                    outer.bodies.append(body | {"path": self.path})
                    outer.headers.append(dict(self.headers))
                    count = seen[prompt]
                if outer.fault(self, prompt, count):
                    return
                with outer.lock:
                    outer.answered[prompt] += 1
                message = {"role": "assistant", "content": model(prompt)}
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                choice = {"index": 0, "message": message, "text": message["content"]}
                self.reply(200, json.dumps({"choices": [choice], "usage": usage}))

            def reply(self, status: int, text: str, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that was killed

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def serving(model: Callable[[Any], str]) -> Iterator[ModelServer]:
    made = ModelServer(model)
    yield made
    made.server.shutdown()
    made.server.server_close()
