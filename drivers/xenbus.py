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

All that an end asks of the store is a task (domains/kernel/tasks.py): whatever may have changed while it paused, the
caller looks at again.
"""

from collections.abc import Callable, Mapping
from typing import Final

from domains.kernel.store_tasks import StoreTasks
from domains.kernel.tasks import Task
from domains.kernel.xenbus import XenbusTasks
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xenbus import XenbusState, XenbusStateUnknown
from hypervisor.public.types import DomId

ABSENT: Final = (Errno.ENOENT, Errno.EACCES)
"""The store's errors for a node that is not there, or not for this domain."""


class DeviceError(Exception):
    """The device cannot be used: the other end refused it, closed it or went away."""


def number(text: str | None, default: int, maximum: int) -> int:
    """A decimal number 0 … maximum as the nodes hold it; `default` for anything else."""
    if text is None or len(text) > 20 or not (text.isascii() and text.isdigit()):
        return default
    return int(text) if int(text) <= maximum else default


class XenbusEnd:
    """This domain's end of one device. `path` is its directory, `peer_path` the other end's."""

    def __init__(self, nodes: XenbusTasks, path: str, peer_path: str, peer_domid: DomId) -> None:
        self._nodes = nodes
        self.path = path
        self.peer_path = peer_path
        self.peer_domid = peer_domid
        self._token: str | None = None

    @classmethod
    def front(cls, nodes: XenbusTasks, path: str) -> Task["XenbusEnd"]:
        """Task: the front end in directory `path`; XenError if the toolstack has not made it."""
        peer_domid = DomId(int((yield from nodes.read(f"{path}/backend-id"))))
        return cls(nodes, path, (yield from nodes.read(f"{path}/backend")), peer_domid)

    @classmethod
    def back(cls, nodes: XenbusTasks, path: str) -> Task["XenbusEnd"]:
        """Task: the back end in directory `path`; XenError or ValueError while the toolstack has not written all
        of its nodes.
        """
        peer_domid = DomId(int((yield from nodes.read(f"{path}/frontend-id"))))
        return cls(nodes, path, (yield from nodes.read(f"{path}/frontend")), peer_domid)

    def read(self, node: str) -> Task[str | None]:
        """Task: a node of this end's directory; None if there is none."""
        return self._read(f"{self.path}/{node}")

    def read_peer(self, node: str) -> Task[str | None]:
        """Task: a node of the other end's directory; None if there is none or it cannot be read."""
        return self._read(f"{self.peer_path}/{node}")

    def read_number(self, node: str, default: int, maximum: int) -> Task[int]:
        """Task: a node of this end's directory as a number 0 … maximum; `default` for anything else."""
        return number((yield from self.read(node)), default, maximum)

    def read_peer_number(self, node: str, default: int, maximum: int) -> Task[int]:
        """Task: a node of the other end's directory as a number 0 … maximum; `default` for anything else."""
        return number((yield from self.read_peer(node)), default, maximum)

    def state(self) -> Task[XenbusState]:
        """Task: this end's state; XenbusStateUnknown when the directory is gone."""
        return _state((yield from self.read("state")))

    def peer_state(self) -> Task[XenbusState]:
        """Task: the other end's state; XenbusStateUnknown when its directory is gone."""
        return _state((yield from self.read_peer("state")))

    def switch(self, state: XenbusState, nodes: Mapping[str, str | int] | None = None) -> Task[bool]:
        """Task: publish `nodes` and go to `state`, all at once; False, and nothing written, if the directory is
        gone.
        """

        def publish(directory: StoreTasks) -> Task[None]:
            yield from directory.read(f"{self.path}/state")
            for node, value in (nodes or {}).items():
                yield from directory.write(f"{self.path}/{node}", str(value))
            yield from directory.write(f"{self.path}/state", str(int(state)))

        try:
            yield from self._nodes.in_transaction(publish)
        except XenError as error:
            if error.errno in ABSENT:
                return False
            raise
        return True

    def tell_peer(self, node: str, value: str | int) -> Task[None]:
        """Task: a node in the other end's directory, for those who may write there; nothing, if the directory is gone."""

        def publish(directory: StoreTasks) -> Task[None]:
            yield from directory.read(f"{self.peer_path}/state")
            yield from directory.write(f"{self.peer_path}/{node}", str(value))

        try:
            yield from self._nodes.in_transaction(publish)
        except XenError as error:
            if error.errno not in ABSENT:
                raise

    def watch_peer(self, callback: Callable[[], None]) -> Task[None]:
        """Task: have `callback` called soon and whenever the other end's state may have changed; see
        `peer_state`.
        """
        yield from self.unwatch()
        self._token = yield from self._nodes.watch(f"{self.peer_path}/state", lambda _: callback())

    def unwatch(self) -> Task[None]:
        """Task: end the watch; harmless if there is none."""
        if self._token is not None:
            token, self._token = self._token, None
            yield from self._nodes.unwatch(token)

    def _read(self, path: str) -> Task[str | None]:
        try:
            return (yield from self._nodes.read(path))
        except XenError as error:
            if error.errno in ABSENT:
                return None
            raise


def _state(text: str | None) -> XenbusState:
    return XenbusState(number(text, XenbusStateUnknown, max(XenbusState)))
