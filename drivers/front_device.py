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
"""

from collections.abc import Mapping
from typing import Final

from domains.kernel.kernel import Kernel
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
GONE: Final = (XenbusStateUnknown, XenbusStateClosed)


class FrontDevice:
    """The device in directory `path` of this domain. A kind of device says what its hooks do."""

    def __init__(self, kernel: Kernel, path: str) -> None:
        """Raises XenError if the toolstack has not made the device."""
        self.kernel = kernel
        self.path = path
        self.end = XenbusEnd.front(kernel.xenbus, path)
        self.refusal = ""
        """Why the back end closed, or would not open."""
        self._peer: XenbusState = XenbusStateUnknown
        self._prepared = self._established = False
        self._wanted = False  # connected, or on the way
        self._token: str | None = None  # of the watch on where it is plugged in
        self._dirty = self._replugged = self._stepping = False

    # --- what a kind of device does --------------------------------------------------------------

    def prepare(self) -> Nodes:
        """Allocate rings, channel and pages, as the back end's features call for; the nodes to publish."""
        raise NotImplementedError

    def established(self) -> None:
        """The back end is connected: read its properties."""
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
        """Connect, or connect again; DeviceError if the back end is not up within `timeout` seconds."""
        if self._prepared:
            self.close(timeout)
        self.refusal = ""
        if self._token is None:
            self._token = self.kernel.xenbus.watch(f"{self.path}/backend", self._moved)
        if self.end.state() is not XenbusStateInitialising:
            self.end.switch(XenbusStateInitialising)
        self._wanted = True
        self.end.watch_peer(self._changed)
        self.kernel.wait(lambda: self._established or bool(self.refusal), timeout)
        if not self._established:
            self._wanted = False
            self._lose()
            raise self.failure(self.refusal or f"the back end stays in state {self._peer.name}")

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is on its way, and disconnect."""
        self._wanted = False
        if self._prepared:
            self.kernel.wait(self.idle, timeout)
        self.end.switch(XenbusStateClosing)
        self.kernel.wait(lambda: self._peer in ENDED, timeout)
        self.end.switch(XenbusStateClosed)
        self.kernel.wait(lambda: self._peer in GONE, timeout)
        self._lose()
        self.end.unwatch()
        if self._token is not None:
            token, self._token = self._token, None
            self.kernel.xenbus.unwatch(token)

    def on_event(self) -> None:
        """The handler to bind to the event channel."""
        if not self._prepared:
            return
        try:
            self.interrupt()
        except RingBroken as broken:
            self.give_up(broken)
        if self._peer is XenbusStateClosing:
            self._follow_closing()

    def give_up(self, broken: RingBroken) -> None:
        """The back end breaks the rules of the ring: disconnect from it."""
        self.refusal = str(broken)
        self._lose()
        self.end.switch(XenbusStateClosing)

    def _moved(self, _path: str) -> None:
        """The toolstack may have plugged the device in elsewhere."""
        self._replugged = True
        self._changed()

    def _changed(self) -> None:
        """Take the steps that both ends' states call for. Steps wait for xenstore: whatever changes meanwhile is looked at
        after them, never below them.
        """
        self._dirty = True
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._dirty:
                self._dirty = False
                if self._replugged:
                    self._replugged = False
                    self._face_new_back_end()
                self._step()
        finally:
            self._stepping = False

    def _face_new_back_end(self) -> None:
        """If the device's nodes name another back end than before, the domain of the old one is gone."""
        try:
            end = XenbusEnd.front(self.kernel.xenbus, self.path)
        except XenError:
            return  # unplugged, for now at least
        if (end.peer_path, end.peer_domid) != (self.end.peer_path, self.end.peer_domid):
            self._lose()
            self.end.unwatch()
            self.end = end
            self.refusal = ""
            end.watch_peer(self._changed)

    def _step(self) -> None:
        self._peer = self.end.peer_state()
        if self._peer is XenbusStateClosing:
            if self._prepared:
                self.refusal = self.end.read_peer("error") or "the back end is closing"
            self._follow_closing()
        elif self._peer in GONE:
            if self.end.read_peer("hotplug-status") == "error":
                self.refusal = self.end.read_peer("hotplug-error") or "the back end cannot open the device"
            self._lose()
        elif self._wanted:
            self._advance()

    def _advance(self) -> None:
        """Take the step that the back end waits for, if this end is on its way up."""
        if self._peer in (XenbusStateInitWait, XenbusStateInitialised) and not self._prepared:
            if self.end.state() is XenbusStateInitialising:
                nodes = self.prepare()
                self._prepared = True
                self.end.switch(XenbusStateInitialised, nodes)
        elif self._peer is XenbusStateConnected and self._prepared and not self._established:
            self.established()
            self.end.switch(XenbusStateConnected)
            self._established = True

    def _follow_closing(self) -> None:
        """The back end wants to close: so be it, when everything on its way is answered."""
        if not self._prepared or self.idle():
            self.end.switch(XenbusStateClosed)

    def _lose(self) -> None:
        self._established = False
        if self._prepared:
            self._prepared = False
            self.drop()
