"""What every back end's device has in common: its walk through the states of xenbus, and its bounded turns.

    front                     this end
    Initialising              Initialising ─► InitWait       open: what is behind the device; features
    Initialised, Connected    InitWait ─► Connected          attach: the front's rings and event channel
    Closing                   ─► Closing                     detach
    Closed, or gone           ─► Closed                      detach, shut

Source: Xen public/io/xenbus.h and the diagrams in public/io/blkif.h. Invariants: what was opened stays so
from InitWait to Closed; what was attached is let go before the front is told Closed; when the device's own
nodes vanish, all of it is. A front's faults (a broken ring, nodes that make no sense) end its own connection,
and raise nowhere.

Turns are handlers. Steps between states are tasks, for they ask the store; only one of a device is under way at a time
(back_ends.py), and turns go on meanwhile. What a step holds of the front's it takes and lets go of without a pause in between.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from drivers.ring import RingBroken
from drivers.xenbus import XenbusEnd
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
T = TypeVar("T")


class FrontError(Exception):
    """What the front published makes no sense."""


class BackDevice:
    """The device whose `end` this is. `ready` is called when its rings need a turn, as for an event, `dirty`
    when its state may have changed.

    A kind of device says how to open, attach, detach, shut, and what a turn is.
    """

    def __init__(
        self, kernel: Kernel, end: XenbusEnd, ready: Callable[[], None], dirty: Callable[[], None]
    ) -> None:
        self.kernel = kernel
        self.end = end
        self.attached = False
        self.ready = ready
        self._dirty = dirty
        self._failed = False
        self._broken = ""

    # --- what a kind of device does --------------------------------------------------------------

    def open(self) -> Task[Nodes]:
        """Task: open what is behind the device; the features to publish. Raises OSError. It reads the store first, and
        does not pause once it holds something.
        """
        raise NotImplementedError

    def attach(self) -> Task[Nodes]:
        """Task: attach to the front's rings; the properties to publish. Raises XenError or FrontError, holding
        nothing. It reads the store first, and does not pause once it holds something.
        """
        raise NotImplementedError

    def detach(self) -> None:
        """Let go of everything of the front's."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close what `open` opened; harmless if it is not open."""
        raise NotImplementedError

    def turn(self, crowd: int) -> bool:
        """One bounded turn of the attached rings, the shorter the more devices want one (`crowd`, this one
        included); whether there is more to do, of which the front will not tell. Raises RingBroken.
        """
        raise NotImplementedError

    # --- turns -----------------------------------------------------------------------------------

    @property
    def can_serve(self) -> bool:
        """Whether a turn can be taken now."""
        return self.attached and not self._broken

    def serve(self, crowd: int = 1) -> None:
        """One turn; if there is more to do, another is asked for."""
        if self.can_serve:
            self.end_turn(self.attempt(lambda: self.turn(crowd), False))

    def end_turn(self, more: bool) -> None:
        """Ask for another turn if there is more to do."""
        if more:
            self.ready()

    def attempt(self, step: Callable[[], T], otherwise: T) -> T:
        """A step of a turn, unless the ring was found broken in one before; a broken ring ends the connection."""
        if self._broken:
            return otherwise
        try:
            return step()
        except RingBroken as broken:
            self._broken = str(broken)
            self._dirty()
            return otherwise

    # --- states ----------------------------------------------------------------------------------

    def watch(self) -> Task[None]:
        """Task: from now on `dirty` is called when the front's state changes, and once at the beginning."""
        return self.end.watch_peer(self._dirty)

    def reconcile(self) -> Task[bool]:
        """Task: take the steps that both states call for; False when the device is gone and all is let go."""
        own = yield from self.end.state()
        if own is XenbusStateUnknown:
            yield from self.release()
            return False
        peer = yield from self.end.peer_state()
        if self._broken:
            yield from self._give_up(self._broken)
        else:
            yield from STEPS.get(peer, BackDevice._wait)(self, own)
        return True

    def release(self) -> Task[None]:
        """Task: let go of everything; first, without a pause, of what is the front's and of what is behind the device,
        then of the watch.
        """
        self._detach()
        self.shut()
        yield from self.end.unwatch()

    def _wait(self, own: XenbusState) -> Task[None]:
        """A front that reconfigures is nothing to act on."""
        yield from ()

    def _offer(self, own: XenbusState) -> Task[None]:
        """Front Initialising: it may be new, or come again after it was closed."""
        if own is XenbusStateClosing and not self.attached:
            yield from self._close(own)
        elif own in (XenbusStateInitialising, XenbusStateClosed) and (yield from self._may_open()):
            yield from self._open()

    def _connect(self, own: XenbusState) -> Task[None]:
        """Front Initialised, or Connected already. After a failure it closes first."""
        if own is XenbusStateInitialising:
            yield from self._offer(own)
            own = yield from self.end.state()
        if self.attached or own is not XenbusStateInitWait:
            return
        try:
            nodes = yield from self.attach()
        except (XenError, FrontError) as error:
            yield from self._give_up(str(error))
            return
        self.attached = True
        yield from self.end.switch(XenbusStateConnected, nodes)
        self.ready()  # requests may have come before the channel was bound

    def _follow_closing(self, own: XenbusState) -> Task[None]:
        self._detach()
        if own not in (XenbusStateClosing, XenbusStateClosed):
            yield from self.end.switch(XenbusStateClosing)

    def _close(self, own: XenbusState) -> Task[None]:
        """Front Closed or gone."""
        self._detach()
        self.shut()
        if own is not XenbusStateClosed:
            yield from self.end.switch(XenbusStateClosed)

    def _open(self) -> Task[None]:
        self.shut()
        try:
            features = yield from self.open()
        except OSError as error:
            self._failed = True
            why = f"{error.filename}: {error.strerror}"
            yield from self.end.switch(XenbusStateClosed, {"hotplug-status": "error", "hotplug-error": why})
        else:
            yield from self.end.switch(XenbusStateInitWait, {**features, "hotplug-status": "connected"})

    def _detach(self) -> None:
        self._broken = ""
        if self.attached:
            self.attached = False
            self.detach()

    def _give_up(self, reason: str) -> Task[None]:
        """End the connection for the front's fault; it may come back by way of Closed."""
        self._detach()
        yield from self.end.switch(XenbusStateClosing, {"error": reason})

    def _may_open(self) -> Task[bool]:
        """Whether it has not failed before, and the toolstack wants the device to come up (again, after it was closed)."""
        return not self._failed and (yield from self.end.read("online")) != "0"


STEPS: Final[dict[XenbusState, Callable[[BackDevice, XenbusState], Task[None]]]] = {
    XenbusStateUnknown: BackDevice._close,
    XenbusStateInitialising: BackDevice._offer,
    XenbusStateInitialised: BackDevice._connect,
    XenbusStateConnected: BackDevice._connect,
    XenbusStateClosing: BackDevice._follow_closing,
    XenbusStateClosed: BackDevice._close,
}
"""What the front's state calls for."""
