"""A headless Chromium driven over its own DevTools protocol: open a page, look, press keys.

No driver program and no package beside a websocket client: what the protocol reports (console,
exceptions, every request) is what the tests judge.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_S = 30.0
KEYS = {"Tab": 9, "Enter": 13}


class Page:
    """One tab; `events` holds what the protocol reported."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.number = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events that come in between are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, url: str) -> None:
        """Load a page and wait until it has loaded."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        deadline = time.monotonic() + START_S
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, f"{url} did not load"
            self.events.append(json.loads(self.socket.recv()))

    def value(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = KEYS[key]
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **fields, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **fields)

    def resize(self, width: int, height: int = 900, *, mobile: bool = False) -> None:
        """Give the window a size; `mobile` makes it a phone's."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )

    def media(self, *, media: str = "", scheme: str = "light") -> None:
        """Emulate print (`media`) or dark mode (`scheme`)."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def shot(self, name: str) -> None:
        """Save a picture of the whole page where REPORT_SHOTS says, if it does."""
        folder = os.environ.get("REPORT_SHOTS")
        if folder:
            found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Console errors and warnings, log entries and exceptions since the page was opened."""
        found: list[str] = []
        for event in self.events:
            what = event["params"]
            if event["method"] == "Runtime.exceptionThrown" or (
                event["method"] == "Runtime.consoleAPICalled"
                and what["type"] in ("error", "warning", "assert")
            ):
                found.append(json.dumps(what))
            elif event["method"] == "Log.entryAdded":
                found.append(what["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def chromium() -> Iterator[Page]:
    """Start a browser with one empty tab. Fails when no Chromium is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "no Chromium found; run `make test-browser`, which installs it"
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-dev-shm-usage", "--disable-background-networking"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            try:
                page = Page(_address(Path(profile) / "DevToolsActivePort"))
                yield page
                page.socket.close()
            finally:
                run.terminate()
                run.wait(timeout=START_S)
        shutil.rmtree(profile, ignore_errors=True)
        Path(profile).mkdir(exist_ok=True)


def _address(port_file: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if port_file.is_file() and (lines := port_file.read_text().splitlines()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=START_S) as response:
                tabs = [tab for tab in json.load(response) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("Chromium did not open its debugging port")
