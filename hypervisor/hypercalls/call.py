"""One hypercall being performed: the caller, its arguments, and the ways to its guest's memory.

Decode, then perform: a handler copies what it needs through this object, once, checks it, and then acts.
Ways to fail (STYLE 6): XenError → `-errno` (in `perform` alone); a status inside an operation; DomainCrash → the caller's
domain ends; anything else is a bug of the hypervisor, logged, and ends the caller's domain only (H3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.domain.effects import Effects
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.mm.budget import Budget
from hypervisor.public.abi import NATIVE, Abi
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.layout import Struct
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_SELF

S = TypeVar("S", bound=Struct)


class DomainCrash(Exception):
    """The calling guest broke the contract; its domain ends with this reason in the log."""


@dataclass(frozen=True)
class Continue:
    """Dispatch the same hypercall again, with these arguments, after everybody else had a turn.

    `state` is what guest arguments cannot carry (a multicall's place); it lives as long as the vCPU waits.
    """

    args: tuple[int, int, int, int, int]
    state: Any = None


@dataclass(frozen=True)
class Blocked:
    """The vCPU sleeps until `RunControl.vcpu_unblock`, or its domain has shut down. Only sched_op does this."""


@dataclass(slots=True)
class Call:
    """`args`: five unsigned 64-bit words. `effects`: what the caller's CPU has to do, in order, before its next instruction.
    `perform`: how a multicall performs its entries. `abi`: how the caller lays out its arguments."""

    hv: Hypervisor
    domain: Domain
    vcpu: Vcpu
    nr: int
    args: tuple[int, int, int, int, int]
    perform: Callable[[Call], Result]
    events_seen: int = 0
    state: Any = None
    budget: Budget = field(default_factory=Budget)
    abi: Abi = NATIVE

    @property
    def effects(self) -> Effects:
        """The caller's outstanding effects, to append to."""
        return self.vcpu.effects

    # --- guest memory ----------------------------------------------------------------------------

    def copy_from_guest(self, va: int, size: int) -> bytes:
        """`size` bytes of the caller's memory, copied once. XenError(EFAULT)."""
        return self.hv.mmu.guest.copy_from_guest(self.vcpu.mem, va, size)

    def copy_to_guest(self, va: int, data: bytes) -> None:
        """XenError(EFAULT): not writable; then nothing was written."""
        self.hv.mmu.guest.copy_to_guest(self.vcpu.mem, va, data)

    def read(self, va: int, struct: type[S]) -> S:
        """The caller's structure at `va`, whatever its layout there, copied once. XenError(EFAULT)."""
        layout = self.abi.layout(struct)
        record: S = layout.unpack(self.hv.mmu.guest.copy_from_guest(self.vcpu.mem, va, layout.sizeof))
        return record

    def write(self, va: int, record: Struct) -> None:
        """Write a structure in the caller's layout. XenError(EFAULT); then nothing was written."""
        layout = self.abi.layout(type(record))
        self.hv.mmu.guest.copy_to_guest(self.vcpu.mem, va, layout.pack(record))

    def read_words(self, va: int, count: int) -> list[int]:
        """`count` unsigned longs of the caller (frame numbers, say), copied once; the caller has bounded `count`.

        XenError(EFAULT).
        """
        abi = self.abi
        numbers: list[int] = abi.words(self.copy_from_guest(va, abi.word * count)).tolist()
        return numbers

    def write_words(self, va: int, numbers: Iterable[int] | NDArray[np.uint64]) -> None:
        """Write unsigned longs in a row. XenError(EFAULT); then nothing was written."""
        self.copy_to_guest(va, self.abi.pack_words(numbers))

    # --- whom it is about ------------------------------------------------------------------------

    def target(self, domid: int) -> Domain:
        """The domain that an argument names, DOMID_SELF included. XenError(ESRCH)."""
        if domid == DOMID_SELF:
            return self.domain
        return self.hv.domain(DomId(domid))

    def require_control(self) -> None:
        """Only the control domain (V1). XenError(EPERM), before anything is looked up."""
        if not self.domain.privileged:
            raise XenError(Errno.EPERM, f"V1: d{self.domain.domid} is not the control domain")

    def require_privilege_over(self, target: Domain) -> None:
        """Oneself, or a domain one controls (U2). XenError(EPERM)."""
        if target is not self.domain and not self.domain.privileged:
            raise XenError(Errno.EPERM, f"U2: d{self.domain.domid} has no privilege over another domain")


Result = int | Continue | Blocked
Handler = Callable[[Call], Result]
SubOp = Callable[..., Result]
