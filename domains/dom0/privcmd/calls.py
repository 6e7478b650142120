"""One request of a client and its reply: bytes in, bytes out, nothing kept. It knows no socket."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from domains.dom0.console.terminal import Terminal
from domains.dom0.privcmd.foreign import FRAMES_MAX, ForeignMaps, Room
from domains.dom0.privcmd.messages import (
    MAGIC,
    PIECES_MAX,
    DomainRequest,
    Greeting,
    Hypercall,
    Kind,
    Mapping,
    Piece,
    Reply,
    Unmapping,
)
from domains.dom0.privcmd.permitted import check
from domains.dom0.privcmd.reservations import in_pieces, is_list
from domains.dom0.privcmd.toolstack import Toolstack
from domains.dom0.privcmd.window import WINDOW_PAGES, WINDOW_START, Window
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_destroydomain,
    xen_domctl,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SIZE, U64, DomId
from hypervisor.public.xen import DOMID_FIRST_RESERVED, multicall_entry
from hypervisor.public.xen import Hypercall as NR

LONGEST: Final = Hypercall.sizeof + PIECES_MAX * Piece.sizeof + WINDOW_PAGES * PAGE_SIZE
"""Bytes of the longest body of a request: one that fills the whole window."""


ENTRIES_MAX: Final = 32
"""Of one multicall."""


class Calls:
    """What clients ask, one after the other."""

    def __init__(self, kernel: Kernel, toolstack: Toolstack) -> None:
        self.toolstack = toolstack
        self._kernel = kernel
        self._window = Window(kernel)
        self._room = Room()
        self._busy = False
        """A call that is performed in pieces has the window."""
        self._freed = Signal()
        self._kinds: dict[int, Callable[[memoryview, ForeignMaps], Answer]] = {
            Kind.CONFIGURATION: self._configuration,
            Kind.MAP: self._map,
            Kind.UNMAP: self._unmap,
        }

    def greeting(self) -> bytes:
        """What a client is told first."""
        return Greeting(magic=MAGIC, window=WINDOW_START, pages=WINDOW_PAGES, longest=LONGEST).pack()

    def ends(self, domid: DomId) -> None:
        """A domain is being destroyed: its end is not to wait for a client."""
        self._kernel.spawn(self._room.let_go(domid))

    def new_maps(self) -> ForeignMaps:
        """For a client: the frames that it will have mapped."""
        return ForeignMaps(self._kernel, self._room)

    def perform(self, kind: int, body: memoryview, maps: ForeignMaps) -> Task[Answer]:
        """The answer to a request of this kind, whatever it says, of the client whose `maps` these are."""
        if kind == Kind.HYPERCALL:
            yield from self._kernel.until(lambda: not self._busy, self._freed)
            self._busy = True
            try:
                return (yield from self._hypercall(body))
            except XenError as error:
                return refusal(error.errno)
            except struct.error:
                return refusal(Errno.EINVAL)
            finally:
                self._busy = False
                self._freed.send()
        perform = self._kinds.get(kind)
        return refused_or(lambda: perform(body, maps)) if perform is not None else refusal(Errno.ENOSYS)

    def console(self, body: memoryview) -> Terminal:
        """The console that a request is about. XenError(ENODEV, ESRCH); struct.error."""
        terminal = self.toolstack.console(domain_of(body))
        if terminal is None:
            raise XenError(Errno.ENODEV, "it has no console")
        return terminal

    def _hypercall(self, body: memoryview) -> Task[Answer]:
        call = Hypercall.unpack(body)
        if call.pieces > PIECES_MAX:
            raise XenError(Errno.E2BIG, f"{call.pieces} pieces")
        at = Hypercall.sizeof + call.pieces * Piece.sizeof
        pieces = [Piece.unpack(body, Hypercall.sizeof + i * Piece.sizeof) for i in range(call.pieces)]
        if sum(piece.size for piece in pieces) != len(body) - at:
            raise XenError(Errno.EINVAL, "the pieces are not as long as they say")
        for piece in pieces:
            self._window.put(piece.address, body[at : at + piece.size])
            at += piece.size
        if call.nr == NR.multicall:
            result = yield from self._multicall(call)
        else:
            result = yield from self._perform(call.nr, call.args)
        data = b"".join([self._window.get(piece.address, piece.size) for piece in pieces])
        return answer(result, data)

    def _perform(self, nr: int, args: Sequence[int]) -> Task[int]:
        """The result of one hypercall, whose arguments are in the window. XenError: it is not passed on."""
        check(nr, args, self._window.get)
        if is_list(nr, args):
            return (yield from in_pieces(self._window, args))
        if nr == NR.domctl:
            op = xen_domctl.unpack(self._window.get(args[0], xen_domctl.sizeof))
            if op.cmd == XEN_DOMCTL_destroydomain and op.interface_version == XEN_DOMCTL_INTERFACE_VERSION:
                self.toolstack.destroyed(op.domain)
        return self._window.hypercall(nr, *args)

    def _multicall(self, call: Hypercall) -> Task[int]:
        """Each entry as a call of its own, for each has to be one that is passed on; its result goes into the entry."""
        at, count = call.args[:2]
        if count > ENTRIES_MAX:
            raise XenError(Errno.E2BIG, f"a multicall of {count} entries")
        for where in range(at, at + count * multicall_entry.sizeof, multicall_entry.sizeof):
            entry = multicall_entry.unpack(self._window.get(where, multicall_entry.sizeof))
            try:
                result = yield from self._perform(entry.op, entry.args[:5])
            except XenError as error:
                result = -error.errno
            entry.result = result & U64
            self._window.put(where, memoryview(entry.pack()))
        return 0

    def _configuration(self, body: memoryview, _maps: ForeignMaps) -> Answer:
        found = self.toolstack.configuration(domain_of(body))
        if found is None:
            raise XenError(Errno.ENOENT, "it was not made here")
        return answer(0, found)

    def _map(self, body: memoryview, maps: ForeignMaps) -> Answer:
        asked = Mapping.unpack(body)
        if asked.count > FRAMES_MAX or len(body) != Mapping.sizeof + asked.count * 8:
            raise XenError(Errno.EINVAL, f"{asked.count} frames in {len(body)} bytes")
        frames = struct.unpack_from(f"<{asked.count}Q", body, Mapping.sizeof)
        mapped = maps.map(domain_id(asked.domid), frames, bool(asked.writable))
        places = b"".join([struct.pack("<QQ", *place) for place in mapped.places])
        return answer(mapped.number, places, mapped.fds)

    def _unmap(self, body: memoryview, maps: ForeignMaps) -> Answer:
        maps.unmap(Unmapping.unpack(body).number)
        return answer(0)


def domain_of(body: memoryview) -> DomId:
    """Which domain a request is about. XenError(ESRCH): no id of one; struct.error."""
    return domain_id(DomainRequest.unpack(body).domid)


def domain_id(number: int) -> DomId:
    """A number as the id of a domain. XenError(ESRCH): it can be none."""
    if number >= DOMID_FIRST_RESERVED:
        raise XenError(Errno.ESRCH, f"no domain has the id {number}")
    return DomId(number)


class Answer(NamedTuple):
    """The bytes of a reply, and descriptors of this process that go with the first."""

    data: bytes
    fds: Sequence[int] = ()


def answer(result: int, data: bytes = b"", fds: Sequence[int] = ()) -> Answer:
    """The answer to a request that was performed."""
    return Answer(Reply(result=result, size=len(data)).pack() + data, fds)


def refusal(errno: int) -> Answer:
    """The answer to a request that was not performed."""
    return answer(-errno)


def refused_or(perform: Callable[[], Answer]) -> Answer:
    """What `perform` gives, or the refusal that says why it does not."""
    try:
        return perform()
    except XenError as error:
        return refusal(error.errno)
    except struct.error:
        return refusal(Errno.EINVAL)
