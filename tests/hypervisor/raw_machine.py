"""A real machine of real processes whose Dom0 and domains are plain functions on a Gate: the transport's test bench.

`Dom0` is given to the supervisor as the domain entry; it plays the toolstack with domctl calls whose arguments lie in the boot
stack page of its own memory, and gives every created domain one of the `roles` to play.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from domains.cpu.gate import Gate
from domains.cpu.page_walk import PageWalk, WalkFault
from hypervisor.core import run_core
from hypervisor.machine.config import MachineConfig
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.supervisor import Entries, Supervisor
from hypervisor.wire.messages import Effect

Body = Callable[[int, str, socket.socket, int], None]


class Scratch:
    """The boot stack page: guest memory for hypercall arguments. `va` is its address in the guest."""

    def __init__(self, gate: Gate, effects: list[list[object]]) -> None:
        raw = next(e[1] for e in effects if e[0] == Effect.CONTEXT)
        assert isinstance(raw, bytes)
        context = vcpu_guest_context.unpack(raw)
        self.va = context.user_regs.rsp - 4096
        found = PageWalk(gate.memory).translate(context.ctrlreg[3] >> 12, self.va, write=True)
        assert not isinstance(found, WalkFault)
        self.maddr = found.mfn << 12
        self.gate = gate

    def put(self, data: bytes, offset: int = 0) -> int:
        self.gate.memory.write(self.maddr + offset, data)
        return self.va + offset

    def get(self, size: int, offset: int = 0) -> bytes:
        return self.gate.memory.read(self.maddr + offset, size)


@contextmanager
def machine(body: Body, *, memory_mib: int = 256) -> Iterator[tuple[Path, int]]:
    """Run a machine whose domain processes run `body(domid, path, pair, mailbox)`. Yields its folder and its supervisor's pid."""
    folder = Path(tempfile.mkdtemp(prefix="xg-"))
    config = MachineConfig(
        "raw", folder, memory_frames=memory_mib << 8, dom0_kernel=b"raw".ljust(4096, b"\0")
    )
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            Supervisor(config, Entries(run_core, body)).run()
        except BaseException:  # noqa: BLE001 - the outermost frame of a process
            traceback.print_exc()
        finally:
            os._exit(0)
    try:
        yield folder, pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, 15)
        os.waitpid(pid, 0)
        wait_until(lambda: not folder.exists(), 5)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Poll `condition` until it holds; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)
