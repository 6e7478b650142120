"""The bare engine: a PVH guest's image on the emulated CPU, its tables its own affair (native paging), in a process without Xen.

    with Bare(image) as bare:
        nanoseconds = bare.ask("faults", 1000)

The process (`python -m scripts.benchmarks.x86.bare IMAGE`) reads lines with a command's index and a number of repetitions.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

from domains.cpu.event_words import EventWords
from domains.cpu.x86.emulator.svm import HF_GUEST, HF_SVME
from domains.cpu.x86.hvm.context import load_registers
from domains.cpu.x86.hvm.engine import HvmCpu
from domains.cpu.x86.hvm.kinds import NATIVE
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.registers import RDI, RSI
from domains.dom0.toolstack.builder.elf import load_pvh_elf
from hypervisor.builder.hvm_contents import registers_at
from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.public.types import PAGE_SIZE
from hypervisor.wire.mailbox import MAILBOX_FRAMES, Mailbox
from scripts.benchmarks.machine import environment

COMMANDS: Final = ("loop", "faults", "syscalls", "switches", "stores")
"""In the order of pvh.c."""
FRAMES: Final = 4096


class Bare:
    """The process; it ends with the block."""

    def __init__(self, image: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmarks.x86.bare", str(image)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )

    def __enter__(self) -> Bare:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # its input ends, and so does it

    def ask(self, command: str, repetitions: int) -> int:
        """The nanoseconds that the repetitions of a command took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{COMMANDS.index(command)} {repetitions}\n")
        return int(self._process.stdout.readline())


class Done(Exception):
    """The guest tells how long it took, in nanoseconds."""


class NoCore:
    """What an engine has in the place of a core: memory, and an answer to the one hypercall."""

    domid = 1
    meter = None
    """Nobody counts its work."""

    def __init__(self) -> None:
        self.memory = MachineMemory(FRAMES)
        self.memory.map(create_memfd("bare", FRAMES), 0, FRAMES, 0)
        self.mailbox = Mailbox(create_memfd("mailbox", MAILBOX_FRAMES))
        self.mailbox.set_vcpus(1)

    def hypercall(self, _vcpu: int, _nr: int, nanoseconds: int, *_: int) -> NoReturn:
        """Raises Done, whatever the number."""
        raise Done(nanoseconds)

    def raised(self, _vcpu: int) -> list[int]:
        """No event ever comes."""
        return []

    def crash(self, _vcpu: int, reason: str) -> NoReturn:
        """Ends the process."""
        raise SystemExit(reason)


def start(v: HvmVcpu, entry: int, index: int, repetitions: int) -> None:
    """As a PVH guest starts, but on a CPU that is no guest's: EBX, ESI and EDI tell it what to do (pvh.c)."""
    load_registers(v, registers_at(entry, start_info=0))
    v.cpu.set_hflags(HF_GUEST | HF_SVME, 0)
    v.cpu.q[RSI], v.cpu.q[RDI] = index, repetitions


def main(image: str) -> None:
    """Perform the commands on standard input."""
    kernel = load_pvh_elf(Path(image).read_bytes(), image)
    core = NoCore()
    cpu = HvmCpu(core, kind=NATIVE)  # type: ignore[arg-type]
    cpu.vcpu.events = EventWords(core.memory.view(0, PAGE_SIZE))
    for line in sys.stdin:
        index, repetitions = map(int, line.split())
        for segment in kernel.segments:
            core.memory.write(segment.vaddr, bytes(segment.data).ljust(segment.size, b"\0"))
        start(cpu.vcpu, kernel.entry, index, repetitions)
        try:
            cpu.run_slice()
        except Done as done:
            print(*done.args, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
