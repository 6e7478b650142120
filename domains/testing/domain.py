"""A guest, as a test has it: its console, its end, its part of the store."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from domains.control.arguments import Arguments
from domains.control.client import Reply
from domains.control.exit_code import EXIT_CODE_NODE, exit_code_of
from domains.control.operations import (
    MAX_INPUT,
    ConsoleInput,
    Created,
    Destroy,
    Domid,
    Ended,
    Pause,
    Reason,
    Reboot,
    Shutdown,
    Unpause,
    Wait,
    XenstoreLs,
)
from domains.control.protocol import ControlError
from domains.testing.hub import Hub
from domains.testing.listener import Line
from domains.testing.store import Store
from domains.testing.text import ConsoleText
from domains.xenctl.tables import printable

GONE: Final = "destroyed"
CREATE_TIMEOUT: Final = 60.0
"""Seconds that Dom0 may take to make a domain."""
LAST_LINES: Final = 3
SHOWN: Final = 400
"""Characters of a console in a message."""


class End(NamedTuple):
    """How a guest ended: `poweroff`, `reboot`, `crash`, `watchdog`, `suspend`, `destroyed`, or `machine` with the machine; and
    the code of its own, if it told one.
    """

    reason: str
    exit_code: int | None = None


class XenDomain:
    """One guest. Made by the fixture `xen_domain`, or part of a topology.

    `name`, `domid`: its name and number; `store`: its part of xenstore, a mapping from paths to texts.
    """

    def __init__(self, hub: Hub, name: str, request: Arguments[Any], may_end: Collection[str]) -> None:
        """`request`: what is answered with its console. `may_end`: the reasons for which it may end while a test runs."""
        self.name = name
        self.domid = 0
        self.ended: End | None = None
        self.warnings: tuple[str, ...] = ()
        self.store = Store(hub.ask, hub.folder / "xenstored", self._home, hub.timeout)
        self._hub = hub
        self._may_end = frozenset(may_end)
        self._text = ConsoleText()
        self._seen = 0
        self._refused: ControlError | None = None
        self._reason: str | None = None
        self._last = 0
        self._closing = self._reboots = False
        with hub.listener.heard:
            self._line = Line(hub.address, self._hear, self._lost)
            self._stream = self._line.post(request)
            hub.listener.add(self._line)

    def __repr__(self) -> str:
        return (
            f"<XenDomain {self.name} ({self.domid}): {'runs' if self.ended is None else self.ended.reason}>"
        )

    # --- the console -----------------------------------------------------------------------------

    @property
    def console(self) -> str:
        """All that it has printed; of a very long console the end."""
        with self._hub.watch.deferred(), self._hub.listener.heard:
            return self._text.since(0)

    def expect(self, text: str | re.Pattern[str], timeout: float | None = None) -> re.Match[str]:
        """Wait until its console shows a text, or what a pattern matches, after what was expected last; the match.

        AssertionError after `timeout` seconds (default: --xen-timeout), or if the guest ends without it.
        """
        __tracebackhide__ = True
        pattern = text if isinstance(text, re.Pattern) else re.compile(re.escape(text))
        limit = self._hub.timeout if timeout is None else timeout
        found: list[re.Match[str]] = []

        def shown() -> bool:
            match = self._text.find(pattern, self._seen)
            found.extend([] if match is None else [match])
            return bool(found) or self.ended is not None

        self._wait(shown, limit)
        if not found:
            how = f"did not show it within {limit:g} s" if self.ended is None else self._how()
            wanted = text.pattern if isinstance(text, re.Pattern) else text
            raise AssertionError(
                f"expected {wanted!r} of guest '{self.name}', which {how}; {self._last_words()}"
            )
        self._seen = self._text.position_of(found[0].end())
        return found[0]

    def send(self, text: str | bytes) -> None:
        """Type into its console. AssertionError: it has ended."""
        __tracebackhide__ = True
        data = text.encode() if isinstance(text, str) else text
        with self._hub.watch.deferred(), self._hub.listener.heard:
            if self.ended is not None:
                raise AssertionError(f"cannot type: guest '{self.name}' {self._how()}")
            for start in range(0, len(data), MAX_INPUT):
                self._line.post(ConsoleInput(data[start : start + MAX_INPUT]))

    def sendline(self, text: str = "") -> None:
        """Type a line."""
        __tracebackhide__ = True
        self.send(f"{text}\n")

    # --- life and end ----------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> End:
        """Wait until it has ended; how. AssertionError after `timeout` seconds (default: --xen-timeout)."""
        __tracebackhide__ = True
        limit = self._hub.timeout if timeout is None else timeout
        self._wait(lambda: self.ended is not None, limit)
        if self.ended is None:
            raise AssertionError(f"guest '{self.name}' did not end within {limit:g} s; {self._last_words()}")
        return self.ended

    def pause(self) -> None:
        """Let it run no further. ControlError if it cannot be done, as of all below."""
        self._hub.ask(Pause(str(self.domid)))

    def unpause(self) -> None:
        """Let it go on."""
        self._hub.ask(Unpause(str(self.domid)))

    def shutdown(self) -> None:
        """Ask it to power off; `wait` waits until it has."""
        self._hub.ask(Shutdown(str(self.domid)))

    def reboot(self) -> None:
        """Ask it to reboot, which is its end; in a topology it then goes on as another domain of the same name."""
        self._may_end |= {"reboot"}
        self._hub.ask(Reboot(str(self.domid)))

    def destroy(self) -> None:
        """End it at once; its test allows that. Nothing of it is left but what its console has shown."""
        self._closing = True
        self._hub.ask(Destroy(str(self.domid)), timeout=CREATE_TIMEOUT)
        self._wait(lambda: self.ended is not None, CREATE_TIMEOUT)

    def close(self) -> None:
        """Destroy it if it is there, and hear of it no longer."""
        self._closing = True
        if self.domid and self._hub.alive:
            with suppress(ControlError):
                self._hub.ask(Destroy(str(self.domid)), timeout=CREATE_TIMEOUT)
        self._hub.listener.remove(self._line)

    def made(self) -> None:
        """Wait until it has been made. Raises ControlError if it was refused."""
        __tracebackhide__ = True
        self._wait(
            lambda: bool(self.domid) or self._refused is not None or self.ended is not None, CREATE_TIMEOUT
        )
        if self._refused is not None:
            raise self._refused

    def followed(self, domid: int) -> None:
        """It is there already, as this domain: hear of its end over all its reboots."""
        with self._hub.listener.heard:
            self.domid = domid
            self._reboots = True
            self._line.post(Wait(str(domid), reboots=True))
            self._hub.say_to(domid, self._text.feed)

    def _home(self) -> str:
        self._renumber()
        return f"/local/domain/{self.domid}"

    def _renumber(self) -> None:
        """A domain that reboots has another number."""
        if self._reboots:
            with suppress(ControlError):
                self.domid = self._hub.ask(Domid(self.name))

    def _wait(self, condition: Any, seconds: float) -> None:
        """As Listener.wait; what happens to any guest ends it too."""
        __tracebackhide__ = True
        with self._hub.watch.deferred():
            deadline = time.monotonic() + seconds
            self._hub.listener.wait(
                lambda: condition() or self._hub.watch.has_news, deadline - time.monotonic()
            )

    # --- what is heard: in the listener's thread, which has the lock -------------------------------

    def _hear(self, reply: Reply) -> None:
        try:
            result = reply.result()
        except ControlError as refused:
            if reply.id == self._stream:
                self._refused = refused
            elif reply.id == self._last and self._hub.is_listed(self.domid):
                self._has_ended(
                    self._reason or GONE, None
                )  # else it is being destroyed: the console's stream ends, too
            return
        if isinstance(result, bytes):
            self._text.feed(result)
        elif isinstance(result, Created):
            self.domid, self.warnings = result.domid, result.warnings
            self._line.post(Wait(str(self.domid)))
            self._hub.say_to(self.domid, self._text.feed)
        elif isinstance(result, Reason):
            self._reason = result.reason or GONE
            self._renumber()
            self._line.post(ConsoleInput(b""))  # has Dom0 look at the ring once more
            self._last = self._line.post(XenstoreLs(f"/local/domain/{self.domid}/data"))
        elif isinstance(result, Ended):
            self._has_ended(self._reason or result.ended, result.exit_code)
        elif reply.id == self._last:
            codes = [n.value for n in result if n.path.endswith(f"/{EXIT_CODE_NODE}")]
            code = exit_code_of(codes[0].decode("ascii", "replace")) if codes else None
            self._has_ended(self._reason or GONE, code)

    def _lost(self) -> None:
        self._has_ended("machine", None)

    def _has_ended(self, reason: str, code: int | None) -> None:
        if self.ended is not None:
            return
        if reason != "machine":
            self._hub.say_rest_to(self.domid)
        self.ended = End(reason, code)
        if reason == "machine":
            self._hub.machine_died()
        elif reason not in self._may_end and not self._closing:
            self._hub.watch.ring(f"guest '{self.name}' {self._how()}; {self._last_words()}")

    def _how(self) -> str:
        """How it ended, in words."""
        assert self.ended is not None
        reason, code = self.ended
        words = {
            "crash": "crashed",
            "watchdog": "was ended by its watchdog",
            "machine": "ended with its machine",
        }
        told = f" with code {code}" if code is not None else ""
        return f"{words.get(reason, f'ended ({reason})')}{told}"

    def _last_words(self) -> str:
        """What the hypervisor says of it, and its console's last lines, for a message."""
        lines = [line for line in self._text.since(0)[-SHOWN:].splitlines() if line.strip()][-LAST_LINES:]
        said = "its console ends:" + indented(lines) if lines else "its console is empty"
        about = self._hub.log_of(self.domid)[:LAST_LINES]
        return said + (f"\n  the hypervisor says:{indented(about)}" if about else "")


def indented(lines: Sequence[str]) -> str:
    """Lines from elsewhere, each safe to print, below a text."""
    return "".join(f"\n    {printable(line)}" for line in lines)
