"""All devices of one kind that this domain serves, and whose turn it is.

    backend/<kind>/<front's domid>/<device>     written by the toolstack

A ring that has something to do queues behind the others, gets one bounded turn, and queues again if that was
not all. The kernel's loop runs between two turns, and turns are the shorter the more devices wait: what a front
has to wait for is bounded, whatever the others do. A kind of device may serve several in one turn, where that
costs less than one after the other. Steps between states wait for xenstore, so they are taken one device after the
other, never nested, and never below a turn that is still being executed.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from domains.kernel.kernel import Kernel
from drivers.back_device import BackDevice
from hypervisor.public.errno import XenError

D = TypeVar("D", bound=BackDevice)
Make = Callable[[Kernel, str, Callable[[], None], Callable[[], None]], D]


class BackEnds(Generic[D]):
    """The devices below backend/`kind`: `start`, then everything happens from the kernel's loop."""

    def __init__(self, kernel: Kernel, kind: str, make: Make[D]) -> None:
        self._kernel = kernel
        self._root = f"backend/{kind}"
        self._make = make
        self._devices: dict[str, D] = {}
        self._dirty: dict[str, None] = {}  # paths whose state is to be looked at, in order
        self._ready: dict[str, None] = {}  # paths of devices with more to do, in order
        self._working = False
        self._turning = False
        self._token: str | None = None

    @property
    def devices(self) -> dict[str, D]:
        """The devices by path, such as `backend/vbd/1/51712`."""
        return dict(self._devices)

    def start(self) -> None:
        """Begin to watch for devices."""
        self._token = self._kernel.xenbus.watch(self._root, self._changed)

    def stop(self) -> None:
        """Let go of all devices."""
        if self._token is not None:
            self._kernel.xenbus.unwatch(self._token)
            self._token = None
        for device in self._devices.values():
            device.release()
        self._devices.clear()

    def _changed(self, path: str) -> None:
        """Something at or below the root changed."""
        below = path[len(self._root) :].strip("/").split("/")
        self._mark("/".join([self._root, *below[:2]]) if len(below) >= 2 else self._root)

    def _mark(self, path: str) -> None:
        self._dirty[path] = None
        if not self._working:
            self._working = True
            self._kernel.call_soon(self._work)

    def _work(self) -> None:
        """Look at one device that may have changed; at the next one after everybody else's turn."""
        if not any(device.serving for device in self._devices.values()):
            path = next(iter(self._dirty))
            del self._dirty[path]
            if path == self._root:
                self._scan()
            else:
                self._look(path)
        self._working = bool(self._dirty)
        if self._working:
            self._kernel.call_soon(self._work)

    def _scan(self) -> None:
        """Mark all devices there are, and all there were."""
        for path in self._devices:
            self._dirty[path] = None
        for domid in self._children(self._root):
            for device in self._children(f"{self._root}/{domid}"):
                self._dirty[f"{self._root}/{domid}/{device}"] = None

    def _look(self, path: str) -> None:
        device = self._devices.get(path)
        if device is None:
            try:
                device = self._make(self._kernel, path, partial(self._queue, path), partial(self._mark, path))
            except (XenError, ValueError):
                return  # gone again, or not complete yet: its next change is seen
            self._devices[path] = device
        try:
            there = device.reconcile()
        except XenError as error:  # the store, of a domain that may not have as many nodes
            print(f"{path} is not served: {error}")
            device.release()
            there = False
        if not there:
            del self._devices[path]

    def _children(self, path: str) -> list[str]:
        try:
            return self._kernel.xenbus.directory(path)
        except XenError:
            return []

    def _queue(self, path: str) -> None:
        """The device at `path` has something to do: it comes after the others."""
        self._ready[path] = None
        if not self._turning:
            self._turning = True
            self._kernel.call_soon(self._turn)

    def _turn(self) -> None:
        """A turn of the devices that have waited longest."""
        self.serve(len(self._ready))
        self._turning = bool(self._ready)
        if self._turning:
            self._kernel.call_soon(self._turn)

    def serve(self, crowd: int) -> None:
        """One bounded turn, while `crowd` devices wait for one: of the first."""
        for device in self.take_ready(1):
            device.serve(crowd)

    def take_ready(self, most: int) -> list[D]:
        """Up to so many devices that have something to do, in the order of their waiting; they wait no longer."""
        paths = list(islice(self._ready, most))
        for path in paths:
            del self._ready[path]
        return [self._devices[path] for path in paths if path in self._devices]
