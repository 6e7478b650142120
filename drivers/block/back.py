"""Block back: serves every virtual block device whose back end the toolstack puts into this domain.

    backend/vbd/<front's domid>/<device>     written by the toolstack: frontend, params, mode, online, state

Owns the list of devices and whose turn it is. A ring gets a bounded turn for each event; when it has more to
do it queues behind the others, and the kernel's loop runs between two rounds: no front can hold this domain.
"""

from functools import partial
from typing import Final

from domains.kernel.kernel import Kernel
from drivers.block.device import BlockDevice
from hypervisor.public.errno import XenError

BACKEND_ROOT: Final = "backend/vbd"


class BlockBack:
    """All virtual block devices of this domain: `start`, then everything happens from the kernel's loop."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._devices: dict[str, BlockDevice] = {}
        self._dirty: dict[str, None] = {}  # paths whose state is to be looked at, in order
        self._ready: dict[str, None] = {}  # paths of rings with more to do
        self._working = False
        self._token: str | None = None

    @property
    def devices(self) -> dict[str, BlockDevice]:
        """The devices by path, `backend/vbd/1/51712`."""
        return dict(self._devices)

    def start(self) -> None:
        """Begin to watch for devices."""
        self._token = self._kernel.xenbus.watch(BACKEND_ROOT, self._changed)

    def stop(self) -> None:
        """Let go of all devices."""
        if self._token is not None:
            self._kernel.xenbus.unwatch(self._token)
            self._token = None
        for device in self._devices.values():
            device.release()
        self._devices.clear()

    def _changed(self, path: str) -> None:
        """Something at or below BACKEND_ROOT changed."""
        below = path[len(BACKEND_ROOT) :].strip("/").split("/")
        self._mark("/".join([BACKEND_ROOT, *below[:2]]) if len(below) >= 2 else BACKEND_ROOT)

    def _mark(self, path: str) -> None:
        self._dirty[path] = None
        if not self._working:
            self._working = True
            self._kernel.call_soon(self._work)

    def _work(self) -> None:
        """Look at every device that may have changed, one after the other: steps wait for xenstore, and never
        nest.
        """
        while self._dirty:
            if any(device.serving for device in self._devices.values()):
                self._kernel.call_soon(self._work)  # a request in progress uses what a step may let go
                return
            path = next(iter(self._dirty))
            del self._dirty[path]
            if path == BACKEND_ROOT:
                self._scan()
            else:
                self._look(path)
        self._working = False

    def _scan(self) -> None:
        """Mark all devices there are, and all there were."""
        for path in self._devices:
            self._dirty[path] = None
        for domid in self._children(BACKEND_ROOT):
            for device in self._children(f"{BACKEND_ROOT}/{domid}"):
                self._dirty[f"{BACKEND_ROOT}/{domid}/{device}"] = None

    def _look(self, path: str) -> None:
        device = self._devices.get(path)
        if device is None:
            try:
                device = BlockDevice(
                    self._kernel, path, partial(self._queue, path), partial(self._mark, path)
                )
            except (XenError, ValueError):
                return  # gone again, or not complete yet: its next change is seen
            self._devices[path] = device
        if not device.reconcile():
            del self._devices[path]

    def _children(self, path: str) -> list[str]:
        try:
            return self._kernel.xenbus.directory(path)
        except XenError:
            return []

    def _queue(self, path: str) -> None:
        """The device at `path` has more to do: it comes after the others."""
        if not self._ready:
            self._kernel.call_soon(self._round)
        self._ready[path] = None

    def _round(self) -> None:
        """One turn for each ring that had more to do; those that still have queue up for the next round."""
        turn, self._ready = self._ready, {}
        for path in turn:
            if device := self._devices.get(path):
                device.serve()
