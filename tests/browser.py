"""A headless Chromium, driven over the W3C WebDriver protocol with the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing() -> str | None:
    """What a browser test lacks here, or None."""
    if not Path(CHROMIUM).exists():
        return f"{CHROMIUM} is missing"
    return None if shutil.which("chromedriver") else "chromedriver is missing"


class Browser:
    """One window. Scripts run in the page; what they return comes back as plain data."""

    def __init__(self, address: str, session: str) -> None:
        self._session = f"{address}/session/{session}"

    def open(self, url: str) -> None:
        """Go to a page."""
        ask(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value that a script returns."""
        return ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait(self, script: str, good: Callable[[Any], bool] = bool, seconds: float = 90) -> Any:
        """What `script` returns once it is `good`. Raises AssertionError where it never is."""
        until = time.monotonic() + seconds
        while True:
            value = self.run(script)
            if good(value):
                return value
            assert time.monotonic() < until, f"after {seconds:.0f} s still {value!r}: {script}"
            time.sleep(0.5)

    def picture(self, file: Path) -> Path:
        """Keep a screenshot."""
        file.write_bytes(base64.b64decode(ask(f"{self._session}/screenshot")))
        return file


@contextlib.contextmanager
def browser(profile: Path, port: int, size: tuple[int, int] = (1600, 1400)) -> Iterator[Browser]:
    """A Chromium with a profile of its own; `port`: a free one, for chromedriver."""
    command = [shutil.which("chromedriver") or "chromedriver", f"--port={port}"]
    driver = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _until_ready(address)
        arguments = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = ask(f"{address}/session", wanted)["sessionId"]
        try:
            yield Browser(address, session)
        finally:
            ask(f"{address}/session/{session}", method="DELETE")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def ask(url: str, body: Any = None, method: str | None = None) -> Any:
    """The value that a WebDriver command answers with."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error.read().decode()[:2000]}") from error


def _until_ready(address: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if ask(f"{address}/status")["ready"]:
                return
        time.sleep(0.2)
    raise AssertionError("chromedriver does not answer")
