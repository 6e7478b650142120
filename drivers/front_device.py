"""What every front end has in common: its walk through the states of xenbus, back to the start included.

    this end                                  back end
    Initialising                              ─► InitWait
    prepare: rings, channel; Initialised      ─► Connected
    established: its properties; Connected
    …                                         Closing, Closed, gone: what is on its way is finished or fails

A device that was connected, and whose back end's domain died, connects by itself when the toolstack has plugged it in again: the
nodes are new ones, in state Initialising, and name a back end in another domain.

Source: Xen public/io/xenbus.h. Invariants: grants are revoked only after the back end has closed, or is gone;
a page it still holds then is given up rather than used for anything else. After any end `connect` may be
called again.

One task asks the store and takes the steps, one after the other. Handlers and straight-line code only say that there is
something to look at, or leave an errand for that task. Both may let go of the device while the task pauses: after each pause it
looks whether it still has what it is about to publish.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from domains.kernel.waiting import Once
from drivers.ring import RingBroken
from drivers.xenbus import DeviceError, XenbusEnd
from hypervisor.public.errno import XenError
from hypervisor.public.io.xenbus import (
    XenbusState,
    XenbusStateClosed,
    XenbusStateClosing,
    XenbusStateConnected,
    XenbusStateInitialised,
    XenbusStateInitialising,
    XenbusStateInitWait,
    XenbusStateUnknown,
)

Nodes = Mapping[str, str | int]
ENDED: Final = (XenbusStateUnknown, XenbusStateClosing, XenbusStateClosed)
"""States of a back end that serves no more."""
LET_GO: Final = (XenbusStateUnknown, XenbusStateClosed)
"""States of a back end that holds nothing of this end's any more."""


class FrontDevice:
    """The device in directory `path` of this domain. A kind of device says what its hooks do."""

    def __init__(self, kernel: Kernel, path: str) -> None:
        """For straight-line code: reads the store. Raises XenError if the toolstack has not made the device."""
        self.kernel = kernel
        self.path = path
        self.end = kernel.run(XenbusEnd.front(kernel.xenbus.tasks, path))
        self.refusal = ""
        """Why the back end closed, or would not open."""
        self._peer: XenbusState = XenbusStateUnknown
        self._prepared = self._established = False
        self._wanted = False  # connected, or on the way
        self._token: str | None = None  # of the watch on where it is plugged in
        self._replugged = False
        self._errands: deque[Task[Any]] = deque()
        self._steps = kernel.loop.source(self._walk)

    # --- what a kind of device does --------------------------------------------------------------

    def prepare(self) -> Task[Nodes]:
        """Task: allocate rings, channel and pages, as the back end's features call for; the nodes to publish. It reads
        the store first, and does not pause once it holds something.
        """
        raise NotImplementedError

    def established(self) -> Task[None]:
        """Task: the back end is connected, read its properties."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Handle the back end's event. Raises RingBroken."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Whether nothing is on its way."""
        raise NotImplementedError

    def drop(self) -> None:
        """Let go of everything that `prepare` made; what is on its way fails."""
        raise NotImplementedError

    def failure(self, reason: str) -> DeviceError:
        """The exception to raise for a device that cannot be used."""
        return DeviceError(f"{self.end.path}: {reason}")

    # --- connecting ------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether requests are taken."""
        return self._prepared and self._peer is XenbusStateConnected

    def connect(self, timeout: float = 10.0) -> None:
        """Connect, or connect again; DeviceError if the back end is not up within `timeout` seconds. For straight-line
        code.
        """
        if self._prepared:
            self.close(timeout)
        self.refusal = ""
        self._perform(self._begin())
        self.kernel.wait(lambda: self._established or bool(self.refusal), timeout)
        if not self._established:
            self._wanted = False
            self._lose()
            raise self.failure(self.refusal or f"the back end stays in state {self._peer.name}")

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is on its way, and disconnect. For straight-line code."""
        self._wanted = False
        if self._prepared:
            self.kernel.wait(self.idle, timeout)
        self._perform(self.end.switch(XenbusStateClosing))
        self.kernel.wait(lambda: self._peer in ENDED, timeout)
        self._perform(self.end.switch(XenbusStateClosed))
        self.kernel.wait(lambda: self._peer in LET_GO, timeout)
        self._lose()
        self._perform(self._unwatch())

    def _perform(self, errand: Task[None] | Task[bool]) -> None:
        """Have the task that takes the steps do this between two of them, and wait for it."""
        done = Once()

        def performed() -> Task[None]:
            yield from errand
            done.set()

        self._errands.append(performed())
        self._steps.trigger()
        self.kernel.wait(done.is_set)

    def _begin(self) -> Task[None]:
        """Set out from the beginning, and look where the back end is."""
        if self._token is None:
            self._token = yield from self.kernel.xenbus.tasks.watch(f"{self.path}/backend", self._moved)
        if (yield from self.end.state()) is not XenbusStateInitialising:
            yield from self.end.switch(XenbusStateInitialising)
        self._wanted = True
        yield from self.end.watch_peer(self._steps.trigger)

    def _unwatch(self) -> Task[None]:
        yield from self.end.unwatch()
        if self._token is not None:
            token, self._token = self._token, None
            yield from self.kernel.xenbus.tasks.unwatch(token)

    def on_event(self) -> None:
        """The handler to bind to the event channel."""
        if not self._prepared:
            return
        try:
            self.interrupt()
        except RingBroken as broken:
            self.give_up(broken)
        if self._peer is XenbusStateClosing:
            self._steps.trigger()

    def give_up(self, broken: RingBroken) -> None:
        """The back end breaks the rules of the ring: disconnect from it."""
        self.refusal = str(broken)
        self._lose()
        self._errands.append(self.end.switch(XenbusStateClosing))
        self._steps.trigger()

    def _moved(self, _path: str) -> None:
        """The toolstack may have plugged the device in elsewhere."""
        self._replugged = True
        self._steps.trigger()

    def _walk(self) -> Task[None]:
        """Take the steps that both ends' states call for; the errands first."""
        while self._errands:
            yield from self._errands.popleft()
        if self._replugged:
            self._replugged = False
            yield from self._face_new_back_end()
        yield from self._step()

    def _face_new_back_end(self) -> Task[None]:
        """If the device's nodes name another back end than before, the domain of the old one is gone."""
        try:
            end = yield from XenbusEnd.front(self.kernel.xenbus.tasks, self.path)
        except XenError:
            return  # unplugged, for now at least
        if (end.peer_path, end.peer_domid) != (self.end.peer_path, self.end.peer_domid):
            self._lose()
            yield from self.end.unwatch()
            self.end = end
            self.refusal = ""
            yield from end.watch_peer(self._steps.trigger)

    def _step(self) -> Task[None]:
        self._peer = yield from self.end.peer_state()
        if self._peer is XenbusStateClosing:
            if self._prepared:
                self.refusal = (yield from self.end.read_peer("error")) or "the back end is closing"
            if not self._prepared or self.idle():  # when everything on its way is answered
                yield from self.end.switch(XenbusStateClosed)
        elif self._peer in LET_GO:
            if (yield from self.end.read_peer("hotplug-status")) == "error":
                error = yield from self.end.read_peer("hotplug-error")
                self.refusal = error or "the back end cannot open the device"
            self._lose()
        elif self._wanted:
            yield from self._advance()

    def _advance(self) -> Task[None]:
        """Take the step that the back end waits for, if this end is on its way up."""
        if self._peer in (XenbusStateInitWait, XenbusStateInitialised) and not self._prepared:
            if (yield from self.end.state()) is not XenbusStateInitialising:
                return
            nodes = yield from self.prepare()
            if not self._wanted:  # it was given up meanwhile
                self.drop()
                return
            self._prepared = True
            yield from self.end.switch(XenbusStateInitialised, nodes)
        elif self._peer is XenbusStateConnected and self._prepared and not self._established:
            yield from self.established()
            if self._prepared:
                yield from self.end.switch(XenbusStateConnected)
            self._established = self._prepared

    def _lose(self) -> None:
        self._established = False
        if self._prepared:
            self._prepared = False
            self.drop()
