"""Headless Chromium through chromedriver, spoken to in the W3C WebDriver protocol."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
)
PATIENCE = 60.0
"""Seconds until something that should be on a page is given up."""


class Browser:
    """One browser window."""

    def __init__(self, driver: str) -> None:
        binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))))
        self._profile = tempfile.mkdtemp(prefix="solar-browser-")
        options = {"binary": binary, "args": [*FLAGS, f"--user-data-dir={self._profile}"]}
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        found = _send("POST", f"{driver}/session", capabilities)
        self._session = f"{driver}/session/{found['sessionId']}"

    def close(self) -> None:
        _send("DELETE", self._session)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url: str) -> None:
        """Go to a page, whatever was there before."""
        _send("POST", f"{self._session}/url", {"url": "about:blank"})
        _send("POST", f"{self._session}/url", {"url": url})

    def script(self, code: str) -> Any:
        """The value that the JavaScript returns."""
        return _send("POST", f"{self._session}/execute/sync", {"script": code, "args": []})

    def text(self) -> str:
        """What a reader sees of the page."""
        return self.script("return document.body ? document.body.innerText : ''")

    def wait_for(self, code: str) -> Any:
        """The first value of the JavaScript that is true; fails with the page's text when none comes."""
        for _ in range(int(PATIENCE * 5)):
            if found := self.script(code):
                return found
            time.sleep(0.2)
        page = " | ".join(self.text().splitlines())
        pytest.fail(f"never true: {code}; the page says: {page[:2000]}")

    def wait_for_text(self, *texts: str) -> None:
        """Wait until the page shows all of these."""
        self.wait_for(f"return {json.dumps(texts)}.every(text => document.body.innerText.includes(text))")

    def click(self, xpath: str) -> None:
        """Click, as a mouse does, on the first element that the XPath finds."""
        found = _send("POST", f"{self._session}/element", {"using": "xpath", "value": xpath})
        (element,) = found.values()
        _send("POST", f"{self._session}/element/{element}/click", {})

    def into_frame(self, number: int = 0) -> None:
        """Look at a frame of the page from here on."""
        _send("POST", f"{self._session}/frame", {"id": number})

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page, as a phone would have it, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._chrome("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Ask for `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._chrome("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, file: Path) -> None:
        """Write what is seen as PNG."""
        file.write_bytes(base64.b64decode(_send("GET", f"{self._session}/screenshot")))

    def _chrome(self, command: str, parameters: dict[str, Any]) -> None:
        _send("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})


def _send(method: str, url: str, content: Any = None) -> Any:
    data = json.dumps(content if content is not None else {}).encode() if method == "POST" else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)["value"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], health: str, log: Path, **options: Any) -> Iterator[None]:
    """A server in a process of its own, from its first answer on."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, **options)
        try:
            for _ in range(int(PATIENCE * 10)):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(health, timeout=5)
                    break
                time.sleep(0.1)
            else:
                pytest.fail(f"{command[0]} does not answer: {log.read_text()[-2000:]}")
            yield
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser; skips the test where Chromium or its driver is missing."""
    driver = shutil.which("chromedriver")
    if not driver or not any(map(shutil.which, ("chromium", "google-chrome", "chrome"))):
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with serving([driver, f"--port={port}"], f"{address}/status", folder / "chromedriver.log"):
        browser = Browser(address)
        try:
            yield browser
        finally:
            browser.close()
