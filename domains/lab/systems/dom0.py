"""Dom0 of the laboratory's machine with Xen: the domain that Xen makes at its start, with a toolstack and the back ends.

Of xenstore there is nothing. What a guest and its back end tell each other there lies in a structure of the guest's kernel,
`front_ends`; the event that a guest sends to xenstore says that it is filled in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.image import make_image
from domains.lab.in_process import MEMORY_FRAMES, XenInProcess
from domains.lab.systems.back_ends import BackEnds, Disk, FrontEnd, Told
from domains.lab.systems.python_domain import PythonDomain
from hypervisor.domain.dom0_build import build_dom0
from hypervisor.machine.config import MachineConfig
from hypervisor.public.types import DomId, Port

DOM0: Final = DomId(0)
DOM0_FRAMES: Final = 1280
FRONT_ENDS: Final = struct.Struct("<6I")
"""Of the disk, then of the network card: ring reference, port, domain of the back end (kernel/front.c)."""
Connect = Callable[[FrontEnd, FrontEnd], None]
"""Connects the back ends of a disk and of a network card."""


class Dom0(PythonDomain):
    """`disk` and `packets`: what the guest's devices have done. `broken`: see Disk."""

    def __init__(self, xen: XenInProcess, *, broken: int = -1) -> None:
        config = MachineConfig(
            "laboratory",
            Path("/"),
            memory_frames=MEMORY_FRAMES,
            dom0_frames=DOM0_FRAMES,
            dom0_kernel=make_image(f"{__name__}:Dom0"),
        )
        super().__init__(xen, build_dom0(xen.hv, config))
        self.disk = Disk(broken)
        self.packets: list[bytes] = []
        self.store_port = Port(0)
        self.back_ends: BackEnds | None = None
        self.moved: Told = lambda _what, _size: None

    @property
    def sectors(self) -> dict[int, bytes]:
        """The pages of the disk that are not empty."""
        return self.disk.sectors

    def close(self) -> None:
        """Let go of the disk."""
        if self.back_ends is not None:
            self.back_ends.close()
        self.disk.close()

    def open_store(
        self, guest: DomId, front_ends: Callable[[], bytes], connect: Connect | None = None
    ) -> Port:
        """The guest's port to what would be xenstore. After its event the front ends are read, and connected: by `connect`, or
        here.
        """
        remote = XenCtrl(self.kernel).alloc_unbound(guest, DOM0)
        self.store_port = self.kernel.events.bind_interdomain(guest, remote)

        seen: list[tuple[int, ...]] = []

        def filled_in() -> None:
            ends = FRONT_ENDS.unpack(front_ends())
            a, b, _, c, d, _ = ends
            if a and ends not in seen[-1:]:  # a channel begins with an event that says nothing
                seen.append(ends)
                (connect or partial(self._connect, guest))(FrontEnd(a, b), FrontEnd(c, d))

        self.kernel.events.bind(self.store_port, filled_in)
        return remote

    def _connect(self, guest: DomId, block: FrontEnd, network: FrontEnd) -> None:
        self.back_ends = BackEnds(self.kernel, guest, self.disk, self.packets, self.tell)
        self.back_ends.connect(block, network)

    def tell(self, what: str, size: int) -> None:
        """What a back end has moved."""
        self.moved(what, size)
