"""What every back end's device has in common: its walk through the states of xenbus, and its bounded turns.

    front                     this end
    Initialising              Initialising ─► InitWait       open: what is behind the device; features
    Initialised, Connected    InitWait ─► Connected          attach: the front's rings and event channel
    Closing                   ─► Closing                     detach
    Closed, or gone           ─► Closed                      detach, shut

Source: Xen public/io/xenbus.h and the diagrams in public/io/blkif.h. Invariants: what was opened stays so
from InitWait to Closed; what was attached is let go before the front is told Closed; when the device's own
nodes vanish, all of it is. A front's faults (a broken ring, nodes that make no sense) end its own connection,
and raise nowhere. A front whose domain Xen finds running, so that its grants cannot be used, costs itself time and nobody
else: its device is put aside and tried again later (retry.py).
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from domains.kernel.grants import GranterRuns
from domains.kernel.kernel import Kernel
from drivers.retry import Retry, Turn
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
    """The device in directory `path`. `ready` is called when its rings need a turn, as for an event, `dirty`
    when its state may have changed.

    A kind of device says how to open, attach, detach, shut, and what a turn is.
    """

    def __init__(
        self, kernel: Kernel, path: str, ready: Callable[[], None], dirty: Callable[[], None]
    ) -> None:
        """Raises XenError or ValueError while the toolstack has not written all of the device's nodes."""
        self.kernel = kernel
        self.end = XenbusEnd.back(kernel.xenbus, path)
        self.attached = False
        self.serving = False
        """A turn is being executed right now, further up the stack."""
        self.ready = ready
        self._dirty = dirty
        self._failed = False
        self._broken = ""
        self._retry = Retry(kernel, self._try_again)
        self.end.watch_peer(dirty)

    # --- what a kind of device does --------------------------------------------------------------

    def open(self) -> Nodes:
        """Open what is behind the device; the features to publish. Raises OSError."""
        raise NotImplementedError

    def attach(self) -> Nodes:
        """Attach to the front's rings; the properties to publish. Raises XenError or FrontError, holding
        nothing; GranterRuns: it is to be tried again.
        """
        raise NotImplementedError

    def detach(self) -> None:
        """Let go of everything of the front's."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close what `open` opened; harmless if it is not open."""
        raise NotImplementedError

    def turn(self, crowd: int) -> Turn:
        """One bounded turn of the attached rings, the shorter the more devices want one (`crowd`, this one
        included). Raises RingBroken.
        """
        raise NotImplementedError

    # --- turns -----------------------------------------------------------------------------------

    @property
    def can_serve(self) -> bool:
        """Whether a turn can be taken now."""
        return self.attached and not self.serving and not self._broken and not self._retry.pending

    def serve(self, crowd: int = 1) -> None:
        """One turn; if there is more to do, another is asked for."""
        if not self.can_serve:
            return
        self.serving = True
        try:
            self.end_turn(self.attempt(lambda: self.turn(crowd), Turn.DONE))
        finally:
            self.serving = False

    def end_turn(self, turn: Turn) -> None:
        """Ask for another turn if there is more to do: soon, or later if the front's domain is not at rest."""
        if turn is Turn.PUT_OFF:
            self._retry.arrange()
            return
        self._retry.progress()
        if turn is Turn.MORE:
            self.ready()

    def _try_again(self) -> None:
        """The device was put aside, in a turn or when it was to be attached."""
        if self.attached:
            self.ready()
        else:
            self._dirty()

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

    def reconcile(self) -> bool:
        """Take the steps that both states call for; False when the device is gone and all is let go."""
        own = self.end.state()
        if own is XenbusStateUnknown:
            self.release()
            return False
        if self._broken:
            self._give_up(self._broken)
        else:
            STEPS.get(self.end.peer_state(), BackDevice._wait)(self, own)
        return True

    def release(self) -> None:
        """Let go of everything, the watch included."""
        self.end.unwatch()
        self._detach()
        self.shut()

    def _wait(self, own: XenbusState) -> None:
        """A front that reconfigures is nothing to act on."""

    def _offer(self, own: XenbusState) -> None:
        """Front Initialising: it may be new, or come again after it was closed."""
        if own is XenbusStateClosing and not self.attached:
            self._close(own)
        elif own in (XenbusStateInitialising, XenbusStateClosed) and not self._failed and self._online():
            self._open()

    def _connect(self, own: XenbusState) -> None:
        """Front Initialised, or Connected already. After a failure it closes first."""
        if own is XenbusStateInitialising:
            self._offer(own)
            own = self.end.state()
        if self.attached or own is not XenbusStateInitWait:
            return
        try:
            nodes = self.attach()
        except GranterRuns:
            self._retry.arrange()
            return
        except (XenError, FrontError) as error:
            self._give_up(str(error))
            return
        self.attached = True
        self._retry.progress()
        self.end.switch(XenbusStateConnected, nodes)
        self.ready()  # requests may have come before the channel was bound

    def _follow_closing(self, own: XenbusState) -> None:
        self._detach()
        if own not in (XenbusStateClosing, XenbusStateClosed):
            self.end.switch(XenbusStateClosing)

    def _close(self, own: XenbusState) -> None:
        """Front Closed or gone."""
        self._detach()
        self.shut()
        if own is not XenbusStateClosed:
            self.end.switch(XenbusStateClosed)

    def _open(self) -> None:
        try:
            self.shut()
            self.end.switch(XenbusStateInitWait, {**self.open(), "hotplug-status": "connected"})
        except OSError as error:
            self._failed = True
            why = f"{error.filename}: {error.strerror}"
            self.end.switch(XenbusStateClosed, {"hotplug-status": "error", "hotplug-error": why})

    def _detach(self) -> None:
        self._broken = ""
        if self.attached:
            self.attached = False
            self.detach()

    def _give_up(self, reason: str) -> None:
        """End the connection for the front's fault; it may come back by way of Closed."""
        self._detach()
        self.end.switch(XenbusStateClosing, {"error": reason})

    def _online(self) -> bool:
        """Whether the toolstack wants the device to come up again after it was closed."""
        return self.end.read("online") != "0"


STEPS: Final[dict[XenbusState, Callable[[BackDevice, XenbusState], None]]] = {
    XenbusStateUnknown: BackDevice._close,
    XenbusStateInitialising: BackDevice._offer,
    XenbusStateInitialised: BackDevice._connect,
    XenbusStateConnected: BackDevice._connect,
    XenbusStateClosing: BackDevice._follow_closing,
    XenbusStateClosed: BackDevice._close,
}
"""What the front's state calls for."""
