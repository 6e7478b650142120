"""The kernel in ring 1 under a monitor, as VMware's ESX ran it: trap and emulate, call-outs, shadow tables, traces."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

from domains.cpu.x86.registers import RBX, RSP, U32
from domains.cpu.x86.ring1.engine import Ring1Cpu
from domains.lab.image import Image
from domains.lab.systems.ring0 import SHADOW_FRAMES
from domains.lab.systems.system import Crashed, Ended, checked
from domains.lab.systems.unported import P2M_TOP, STACK, Unported, attach
from domains.lab.systems.walks import hvm_entries
from domains.lab.trace import Entry, Observer


class Ring1(Unported):
    """A `System`, and the board of its engine. The parameters are the engine's (ring1/engine)."""

    name = "esx"
    monitor = "monitor"

    def __init__(
        self,
        image: Image | None = None,
        *,
        traces_tables: bool = True,
        untranslated: Collection[str] = (),
    ) -> None:
        super().__init__(image)
        self.cpu = Ring1Cpu(
            self, P2M_TOP, SHADOW_FRAMES, traces_tables=traces_tables, untranslated=untranslated
        )
        self.v = self.cpu.vcpu

    def observe(self, observer: Observer) -> None:
        """See System."""
        self.v.exits = attach(observer, self.cpu.library, self.v.cpu, self.image, self.cpu.emulation)
        observer.cr3 = lambda: self.v.paging.control(3)
        self.devices.tell(observer.beside)

    def tables(self, va: int) -> list[Entry]:
        """See System; the shadow's, too."""
        return hvm_entries(self.v.paging, va)

    def run(self, programs: Sequence[str]) -> int:
        """See System."""
        self.load(programs)
        self.cpu.start(self.image.entry)
        q = self.v.cpu.q
        q[RSP] = STACK
        try:
            while True:
                self.cpu.run_slice()
        except Ended:
            self.v.cpu.running = False
        return checked(int(q[RBX]) & U32)

    # --- the board -------------------------------------------------------------------------------

    def read_port(self, port: int, size: int) -> int:
        """IN."""
        return self.devices.read_port(port, size)

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.devices.write_port(port, size, value)

    def interrupt(self) -> int | None:
        """The vector of the device that has something to say."""
        return self.devices.pending[0] if self.devices.pending else None

    def halt(self, *, interrupts: bool) -> None:
        """HLT."""
        if not interrupts:
            raise Ended
        self.devices.halted()

    def triple_fault(self, report: str) -> NoReturn:
        """The guest could not deliver a double fault."""
        raise Crashed(report)

    def crash(self, reason: str) -> NoReturn:
        """The guest did what is not virtualized."""
        raise Crashed(reason)
