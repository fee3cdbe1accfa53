"""A TCP proxy in front of a real server, whose connections a test can refuse, hold up, delay or cut."""

import contextlib
import socket
import threading
import time
from typing import Self


class Proxy:
    """Forwards 127.0.0.1:port to the target while `mode` is `pass`.

    `refuse`: connections are closed. `hang`: requests are taken and never answered. `cut`: requests reach the
    server, its answers are lost. `lose_at` switches to `refuse` when a request holds these bytes.
    """

    def __init__(self, target: int) -> None:
        self.mode = "pass"
        self.delay = 0.0
        """Seconds before a request goes on."""
        self.lose_at: bytes | None = None
        self._requests = 0
        self._released = threading.Event()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._listener.close()

    def switch(self, mode: str) -> None:
        self.mode, self._requests = mode, 0

    def wait_for_a_request(self) -> None:
        """Return when a request has come since the last switch."""
        while not self._requests:
            time.sleep(0.01)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        with client, server, contextlib.suppress(OSError):
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
            while request := client.recv(1 << 16):
                if self.lose_at is not None and self.lose_at in request:
                    self.mode = "refuse"
                self._requests += 1
                if self.mode == "refuse":
                    return
                self._released.wait(None if self.mode == "hang" else self.delay)
                server.sendall(request)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(1 << 16):
                if self.mode == "cut":
                    break
                client.sendall(answer)
            client.shutdown(socket.SHUT_RDWR)
