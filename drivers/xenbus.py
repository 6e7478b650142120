"""One end of a split device in xenstore: its own directory, the other end's directory, and both states.

Source: Xen public/io/xenbus.h and the state diagrams of public/io/blkif.h.

    front  /local/domain/1/device/vbd/51712      backend = …, backend-id, state, what the front publishes
    back   /local/domain/0/backend/vbd/1/51712   frontend = …, frontend-id, state, what the back publishes

       front                                  back
    Initialising                           Initialising
         │          reads features             │  publishes features
         │◄────────────────────────────── InitWait
    publishes ring and port                    │
    Initialised ──────────────────────────────►│  maps the ring, publishes the device's properties
         │◄────────────────────────────── Connected
    Connected                                  │
         │    either end: Closing, the other follows, both Closed; from there Initialising once more

Invariant: a state is only ever written into a directory that still exists, in the transaction that looked, so
that an end never brings back nodes which the toolstack has removed. What the other end wrote is text from a
stranger: a number that is malformed or too large counts as absent, an unknown state as XenbusStateUnknown,
like no node at all.
"""

from collections.abc import Callable, Mapping

from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xenbus import XenbusState, XenbusStateUnknown
from hypervisor.public.types import DomId

GONE = (Errno.ENOENT, Errno.EACCES)


class DeviceError(Exception):
    """The device cannot be used: the other end refused it, closed it or went away."""


def number(text: str | None, default: int, maximum: int) -> int:
    """A decimal number 0 … maximum as the nodes hold it; `default` for anything else."""
    if text is None or len(text) > 20 or not (text.isascii() and text.isdigit()):
        return default
    return int(text) if int(text) <= maximum else default


class XenbusEnd:
    """This domain's end of one device. `path` is its directory, `peer_path` the other end's."""

    def __init__(self, xenbus: Xenbus, path: str, peer_path: str, peer_domid: DomId) -> None:
        self._xenbus = xenbus
        self.path = path
        self.peer_path = peer_path
        self.peer_domid = peer_domid
        self._token: str | None = None

    @classmethod
    def front(cls, xenbus: Xenbus, path: str) -> "XenbusEnd":
        """The front end in directory `path`; XenError if the toolstack has not made it."""
        peer_domid = DomId(int(xenbus.read(f"{path}/backend-id")))
        return cls(xenbus, path, xenbus.read(f"{path}/backend"), peer_domid)

    @classmethod
    def back(cls, xenbus: Xenbus, path: str) -> "XenbusEnd":
        """The back end in directory `path`; XenError if the toolstack has not made it."""
        peer_domid = DomId(int(xenbus.read(f"{path}/frontend-id")))
        return cls(xenbus, path, xenbus.read(f"{path}/frontend"), peer_domid)

    def read(self, node: str) -> str | None:
        """A node of this end's directory; None if there is none."""
        return self._read(f"{self.path}/{node}")

    def read_peer(self, node: str) -> str | None:
        """A node of the other end's directory; None if there is none or it cannot be read."""
        return self._read(f"{self.peer_path}/{node}")

    def state(self) -> XenbusState:
        """This end's state; XenbusStateUnknown when the directory is gone."""
        return self._state(self.read("state"))

    def peer_state(self) -> XenbusState:
        """The other end's state; XenbusStateUnknown when its directory is gone."""
        return self._state(self.read_peer("state"))

    def switch(self, state: XenbusState, nodes: Mapping[str, str | int] | None = None) -> bool:
        """Publish `nodes` and go to `state`, all at once; False, and nothing written, if the directory is
        gone.
        """
        while True:
            try:
                with self._xenbus.transaction() as transaction:
                    transaction.read(f"{self.path}/state")
                    for node, value in (nodes or {}).items():
                        transaction.write(f"{self.path}/{node}", str(value))
                    transaction.write(f"{self.path}/state", str(int(state)))
                return True
            except XenError as error:
                if error.errno in GONE:
                    return False
                if error.errno is not Errno.EAGAIN:
                    raise

    def watch_peer(self, callback: Callable[[], None]) -> None:
        """Call `callback` soon and whenever the other end's state may have changed; see `peer_state`."""
        self.unwatch()
        self._token = self._xenbus.watch(f"{self.peer_path}/state", lambda _: callback())

    def unwatch(self) -> None:
        """End the watch; harmless if there is none."""
        if self._token is not None:
            token, self._token = self._token, None
            self._xenbus.unwatch(token)

    def _read(self, path: str) -> str | None:
        try:
            return self._xenbus.read(path)
        except XenError as error:
            if error.errno in GONE:
                return None
            raise

    def _state(self, text: str | None) -> XenbusState:
        value = number(text, XenbusStateUnknown, max(XenbusState))
        return XenbusState(value)
