"""A real browser: Chromium without a window, told what to do by the DevTools protocol over a WebSocket."""

import base64
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from websockets.sync.client import ClientConnection

from .client import DEADLINE, websocket
from .harness import eventually, processes_of_group

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: For a test that needs a browser; continuous integration has one.
needs_chromium = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="needs chromium")

# Tests may run as root in a container, where Chromium's sandbox and a large /dev/shm are not to be had; and it is to
# speak to nobody but the server.
OPTIONS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
)


#: What is said of an expression when the document that it was for has made room for the next one.
GONE = (
    "Inspected target navigated or closed",
    "Execution context was destroyed.",
    "Cannot find default execution context",
)


class Navigated(Exception):
    """The document went before it could answer."""


class Browser:
    """A browser with nothing but what is in `folder`; as a context manager, from its start to its end."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM, "there is no chromium"
        folder.mkdir()
        self._folder = folder
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._control: ClientConnection

    def __enter__(self) -> "Browser":
        with ExitStack() as stack:
            self._process = self._start(stack.enter_context(open(self._folder / "log", "wb")))
            stack.callback(self._kill)
            address = eventually(self._address, within=60, message=f"no address in {self._folder / 'log'}")
            self._control = stack.enter_context(websocket(address))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _start(self, log: BinaryIO) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(CHROMIUM), *OPTIONS, f"--user-data-dir={self._folder}", "about:blank"],
            env={**os.environ, "HOME": str(self._folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def _address(self) -> str:
        """Where it can be controlled, as soon as it says so."""
        found = re.search(r"DevTools listening on (ws://\S+)\n", (self._folder / "log").read_text())
        return found[1] if found else ""

    def _kill(self) -> None:
        """End all of its processes: it has nothing to keep."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        eventually(lambda: not list(processes_of_group(self._process.pid)))

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result; events are passed over. Raises `Navigated`."""
        number = next(self._numbers)
        call = {"id": number, "method": method, "params": parameters}
        self._control.send(json.dumps(call | ({"sessionId": session} if session else {})))
        while (answer := json.loads(self._control.recv(DEADLINE))).get("id") != number:
            pass
        if answer.get("error", {}).get("message") in GONE:
            raise Navigated
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> "Page":
        return Page(self, url)


class Page:
    """A page in a window of its own, which counts as being looked at."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        # Answered when the new document is there: a window that is made with its address may still be on the way to
        # it, and an expression that is evaluated then fails as it arrives.
        navigated = self.call("Page.navigate", url=url)
        assert "errorText" not in navigated, navigated

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is; what it throws is an AssertionError."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Until it is true, in this document or in one that the page is on its way to."""
        eventually(lambda: self._is(expression), message=f"never was {expression}")

    def _is(self, expression: str) -> bool:
        try:
            return bool(self.value(expression))
        except Navigated:
            return False

    def texts(self, selector: str) -> list[str]:
        """The first line of each element that the selector finds."""
        found = f"[...document.querySelectorAll({selector!r})].map(each => each.innerText.split('\\n')[0])"
        texts: list[str] = self.value(found)
        return texts

    def type(self, text: str) -> None:
        """Type that, and Enter, where the cursor is."""
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", windowsVirtualKeyCode=13)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
