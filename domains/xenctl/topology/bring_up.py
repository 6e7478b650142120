"""From a plan to running domains: each is made when those it comes after are ready.

    waiting ──all before it are ready──► being made ──► starting ──its `wait` is met──► ready
       │ one of them failed                  │ refused      │ ended, or too late
       └─► left out                          └─► failed ◄───┘

What is there already, made by this topology from the same description, stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from domains.control.client import ControlClient
from domains.control.operations import Console, Create, Created, Destroy, Ended, List, Listed, Unpause, Wait
from domains.control.protocol import ControlError, Exit
from domains.control.snapshot_operations import Fork
from domains.xenctl.output import print_warning
from domains.xenctl.topology.check import config_for
from domains.xenctl.topology.conversation import Ask, Conversations, More, Talk
from domains.xenctl.topology.expand import Plan, Planned
from domains.xenctl.topology.images import make_image
from domains.xenctl.topology.state import State, mark_of

CREATE_TIMEOUT: Final = 120.0
LAST_WORDS: Final = 1.0
"""Seconds in which the console of a domain that has ended says the last of it."""

Tell = Callable[[str, str], None]
"""(domain, what became of it)"""


class BringUp:
    """One `up`. `tell` is called for every domain that is made, ready, unchanged, failed or left out."""

    def __init__(
        self,
        client: ControlClient,
        plan: Plan,
        state: State,
        folder: Path,
        tell: Tell,
    ) -> None:
        """`folder`: where relative paths of descriptions start."""
        self._conversations = Conversations(client)
        self._plan = plan
        self._state = state
        self._folder = folder
        self._tell = tell
        self._there: dict[str | None, Listed] = {about.name: about for about in client.call(List())}
        self._waiting: dict[str, set[str]] = {}
        self.failures: dict[str, ControlError] = {}

    def run(self, names: Iterable[str]) -> None:
        """Bring these domains up, which must have all domains that they come after among them.

        Raises ControlError if one of them did not come up; the others did.
        """
        self._waiting = {name: set(self._plan.domains[name].after) for name in names}
        self._start_those_that_can()
        self._conversations.run()
        if self.failures:
            name, error = next(iter(self.failures.items()))
            more = f" (and {len(self.failures) - 1} more did not come up)" if len(self.failures) > 1 else ""
            raise ControlError(error.code, f"{name}: {error.message}{more}")

    def _start_those_that_can(self) -> None:
        """One by one: what is there already ends at once, and lets others begin before this returns."""
        while (name := next((n for n, before in self._waiting.items() if not before), None)) is not None:
            del self._waiting[name]
            self._conversations.start(self._bring_up(self._plan.domains[name]), partial(self._ended, name))

    def _ended(self, name: str, error: ControlError | None) -> None:
        if error is not None:
            self.failures[name] = error
            self._tell(name, f"failed: {error.message}")
            self._leave_out(name)
            return
        for before in self._waiting.values():
            before.discard(name)
        self._start_those_that_can()

    def _leave_out(self, failed: str) -> None:
        """What comes after a domain that failed is not begun."""
        for name in [name for name, before in self._waiting.items() if failed in before]:
            if self._waiting.pop(name, None) is not None:
                why = f"left out, for {failed} did not come up"
                self.failures[name] = ControlError(Exit.FAILURE, why)
                self._tell(name, why)
                self._leave_out(name)

    # --- one domain ------------------------------------------------------------------------------

    def _bring_up(self, planned: Planned) -> Talk:
        about = self._there.get(planned.name)
        if about is None and self._state.was_ready(planned, None):
            self._tell(planned.name, "unchanged: has done its work")
            return
        if about is not None and not self._is_same(planned, about):
            if not self._state.owns(about):
                raise ControlError(
                    Exit.FAILURE, f"domain {about.domid} has that name, and is not of this topology"
                )
            self._tell(planned.name, "is made anew")
            yield Ask(Destroy(str(about.domid)), in_time(CREATE_TIMEOUT))
            about = None
        if about is not None and self._is_settled(planned, about):
            self._tell(planned.name, "unchanged")
            return
        deadline = in_time(CREATE_TIMEOUT)
        waits = planned.wait.until != "running"
        if about is None:
            for image in planned.images:
                make_image(image)
            created: Created = yield Ask(self._creation(planned, paused=waits), deadline)
            for warning in created.warnings:
                print_warning(warning)
            made = created.domid
        else:
            made = about.domid
        domid = (yield from self._readiness(planned, made)) if waits else made
        self._state.note_ready(planned, domid)
        done = domid is None
        self._tell(planned.name, "has done its work" if done else "ready")

    def _present_id(self, planned: Planned, former: int) -> Generator[Ask, Any, int]:
        """The domain's id after the reboots that it may have gone through."""
        listed = yield Ask(List(), in_time(CREATE_TIMEOUT))
        return next((about.domid for about in listed if about.name == planned.name), former)

    def _is_same(self, planned: Planned, about: Listed) -> bool:
        """Whether a domain that is there is the one wanted, and has not ended in another way than it should."""
        ended = about.shutdown
        as_wanted = ended is None or (ended == "poweroff" and planned.wait.until == "shutdown")
        return mark_of(about) == self._state.mark(planned) and as_wanted

    def _is_settled(self, planned: Planned, about: Listed) -> bool:
        """Whether it was ready before, or has nothing to wait for."""
        ready = self._state.was_ready(planned, about.domid)
        return ready or about.shutdown is not None or planned.wait.until == "running"

    def _creation(self, planned: Planned, *, paused: bool) -> Create | Fork:
        config, mark = config_for(planned, self._folder), self._state.mark(planned)
        if planned.snapshot is not None:
            return Fork(planned.snapshot, planned.name, paused, vifs=config.vifs or None, mark=mark)
        return Create(config.replaced(mark=mark), paused)

    def _readiness(self, planned: Planned, domid: int) -> Generator[Ask | More, Any, int | None]:
        """Until a domain that was made paused, or found not ready, is ready, over all its reboots; its id then, None
        if it has done its work. It is let go only when we listen.
        """
        deadline = in_time(planned.wait.timeout)
        listen = self._text if planned.wait.until == "console" else self._end
        ended = yield from listen(planned, domid, deadline)
        if ended is not None:
            code = Exit.CRASHED if ended in ("crash", "watchdog") else Exit.FAILURE
            raise ControlError(code, f"ended ({ended}) before it was ready")
        return None if planned.wait.until == "shutdown" else (yield from self._present_id(planned, domid))

    def _text(self, planned: Planned, domid: int, deadline: float) -> Generator[Ask | More, Any, str | None]:
        """Until its console has shown the text; why it ended, if it did before."""
        text = (planned.wait.console or "").encode()
        late = f"its console did not show '{planned.wait.console}' within {planned.wait.timeout:g} s"
        domain = str(domid)
        wanted, end = Console(domain, reboots=True), Wait(domain, reboots=True)
        message = yield Ask(wanted, deadline, late, also=end, then=Unpause(domain))
        seen, ended = b"", None
        while not isinstance(message, Ended):
            if isinstance(message, bytes):
                seen = seen[max(len(seen) - len(text) + 1, 0) :] + message
                if text in seen:
                    return None
            else:  # its last words may still be on their way
                ended, deadline = message.reason or "destroyed", in_time(LAST_WORDS)
            try:
                message = yield More(deadline, late)
            except ControlError:
                if ended is None:
                    raise
                return ended
        return message.ended

    def _end(self, planned: Planned, domid: int, deadline: float) -> Generator[Ask | More, Any, str | None]:
        """Until it has powered off; why it ended, if that was otherwise."""
        late = f"did not power off within {planned.wait.timeout:g} s"
        domain = str(domid)
        result = yield Ask(Wait(domain, reboots=True), deadline, late, then=Unpause(domain))
        return None if result.reason == "poweroff" else result.reason or "destroyed"


def in_time(seconds: float) -> float:
    """The point of the monotonic clock after so many seconds."""
    return time.monotonic() + seconds
