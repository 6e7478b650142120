"""Python kernels and a real hypervisor in one process: the gate is played here, everything else is the real
thing.

`PythonDomain` builds a domain as the toolstack does and boots a kernel in it. While its vCPU is blocked, the
others' turn comes: `meanwhile` callables run (a store, a console daemon, another kernel's loop) until
something wakes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from domains.cpu.python_cpu import PythonCpu
from domains.cpu.watched_fds import WatchedFds
from domains.kernel.image import make_image
from domains.kernel.kernel import Kernel
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import Effect
from tests.inprocess import BLOCKED, Built, InProcess

DEADLINE = 20.0
"""Seconds after which a guest that nobody wakes is a failed test."""


class Crashed(Exception):
    """The CPU ended the domain."""


class ShutDown(Exception):
    """The domain ended itself; `code` is the SHUTDOWN_… reason."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


def without_extents(effects: list[list[Any]]) -> list[list[Any]]:
    """This process has all machine memory mapped already, being the hypervisor as well."""
    return [effect for effect in effects if effect[0] not in (Effect.MAP_EXTENT, Effect.UNMAP_EXTENT)]


class LocalGate:
    """domains.cpu.gate.Gate with the hypervisor called directly."""

    meter = None

    def __init__(self, machine: InProcess, built: Built) -> None:
        self.machine = machine
        self.built = built
        self.domid = built.domain.domid
        self.memory = machine.memory
        self.mailbox = built.domain.mailbox
        self.busy = False
        self.watched = WatchedFds(-1)
        self.looks = 0
        self.save_context: Callable[[int], bytes] = bytes
        self.meanwhile: list[Callable[[], None]] = []
        self.calls: list[tuple[int, ...]] = []
        self.on_hypercall: Callable[[], object] | None = None
        """Called inside each hypercall: what a signal would do there."""

    def start(self) -> list[list[Any]]:
        return without_extents(self.built.vcpu.take_effects())

    def post_event(self, _vcpu: int, _port: int) -> bool:
        return False

    def hypercall(self, vcpu: int, nr: int, *args: int) -> tuple[int, list[list[Any]]]:
        self.calls.append((nr, *args))
        self.looks += 1
        if self.on_hypercall is not None:
            self.on_hypercall()
        target = self.built.vcpu
        result = self.machine.hypercall(target, nr, *args)
        deadline = time.monotonic() + DEADLINE
        while result is BLOCKED:
            if target.domain.is_shut_down:
                assert target.domain.shutdown_code is not None
                raise ShutDown(target.domain.shutdown_code)
            for other in self.meanwhile:
                other()
            self.machine.background()
            result = self.machine.processes.results.pop(target, BLOCKED)
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody wakes the guest from {Hypercall(nr).name}")
        assert isinstance(result, int)
        return result, without_extents(self.machine.processes.effects.pop(target))

    def stopped(self, vcpu: int) -> tuple[int, list[list[Any]]]:
        self.built.domain.mailbox.set_stop(vcpu, False)
        return 0, self.start()

    def raised(self, vcpu: int) -> list[int]:
        return self.mailbox.take_raised(vcpu)

    def should_stop(self, vcpu: int) -> bool:
        return self.mailbox.stop(vcpu)

    def crash(self, vcpu: int, reason: str) -> NoReturn:
        self.machine.hv.crash(self.built.domain, reason)
        raise Crashed(reason)


class PythonDomain:
    """One domain with a booted kernel. `cpu` before `boot`: the vCPU with its initial registers."""

    def __init__(self, machine: InProcess, pages: int = 2048, privileged: bool = False) -> None:
        self.built = machine.build(pages=pages, privileged=privileged)
        image = make_image("tests.domains.kernel.one_process:Nobody")
        machine.memory.write(int(self.built.p2m[0]) << PAGE_SHIFT, image)
        self.gate = LocalGate(machine, self.built)
        self.cpu = PythonCpu(self.gate)  # type: ignore[arg-type]
        self.cpu.boot(self.gate.start())

    def boot(self) -> Kernel:
        return Kernel(self.cpu)


@contextmanager
def booted(
    machine: InProcess, pages: int = 2048, privileged: bool = False
) -> Iterator[tuple[PythonDomain, Kernel]]:
    """A domain and its kernel."""
    domain = PythonDomain(machine, pages, privileged)
    yield domain, domain.boot()
