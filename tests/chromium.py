"""A real browser for tests: Chromium without a window, driven over a pipe by its own protocol (Chrome DevTools Protocol).

Every message is JSON and ends with a zero byte; the browser reads descriptor 3 and writes descriptor 4. No port is opened.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from select import select
from types import TracebackType
from typing import Any, Final, Self

PROGRAMS: Final = ("chromium-headless-shell", "chromium")
"""Debian's packages and programs have the same names."""
FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-breakpad",
    ),
    "--disable-dev-shm-usage",
)
SECONDS: Final = 30
CHROMIUM: Final = next(filter(None, map(shutil.which, PROGRAMS)), None)
Message = dict[str, Any]


def high_pipe() -> tuple[int, int]:
    """A pipe whose ends are above 4, which is the browser's; only what is put in their place is handed on."""
    ends = os.pipe()
    high = fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 10), fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 10)
    for end in ends:
        os.close(end)
    return high


class Chromium:
    """One browser with one page. `requests`: every address that the page asked for; `errors`: of its console."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._folder = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        theirs_in, self._out = high_pipe()
        self._in, theirs_out = high_pipe()
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            preexec_fn=lambda: (os.dup2(theirs_in, 3), os.dup2(theirs_out, 4)),
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest = b""
        self._events: deque[Message] = deque()
        self._session = ""
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all its processes, and take away what it kept."""
        os.close(self._out)  # it ends when nobody drives it any more
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._folder.cleanup()

    def open(self, address: str | Path) -> None:
        """Load a page, whole. What was asked for and complained of before is forgotten."""
        self.requests.clear()
        self.errors.clear()
        self._events.clear()
        url = address.as_uri() if isinstance(address, Path) else address
        self._call("Page.navigate", url=url)
        self.wait_for_page()

    def wait_for_page(self) -> None:
        """Until a page that is on its way has been loaded."""
        self._await("Page.loadEventFired")
        self._events.clear()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript's. Raises AssertionError with what it threw."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of what the selector names."""
        where = f"document.querySelector({json.dumps(selector)})"
        box = self.evaluate(
            f"{where}.scrollIntoView({{block: 'center'}}), {where}.getBoundingClientRect().toJSON()"
        )
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, by the name that scripts have for it, where the focus is."""
        text = {"Enter": "\r", "Tab": "\t"}.get(key, key if len(key) == 1 else "")
        code = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}.get(key, ord(key.upper()[0]))
        down: Message = {"type": "keyDown", "key": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", **down, **({"text": text} if text and key != "Tab" else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size in pixels, and which colours the reader prefers."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """What is to be seen of the whole page, as a PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    # --- the protocol ----------------------------------------------------------------------------

    def _call(self, method: str, **parameters: Any) -> Message:
        number = next(self._numbers)
        message: Message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: Message = answer["result"]
                return result

    def _await(self, event: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not any(message["method"] == event for message in self._events):
            self._receive(deadline)

    def _receive(self, deadline: float) -> Message:
        while b"\0" not in self._rest:
            assert select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0], (
                "the browser says nothing"
            )
            more = os.read(self._in, 1 << 16)
            assert more, "the browser has ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message: Message = json.loads(line)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, message: Message) -> None:
        self._events.append(message)
        parameters = message["params"]
        match message["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.errors.append(str(parameters["args"]))
            case "Log.entryAdded":
                self.errors.append(str(parameters["entry"]))
