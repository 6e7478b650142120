"""Traps of a vCPU that runs Python: the virtual IDT, and what a handler is told.

A handler's address is a virtual address in the kernel image. For a Python kernel 16 bytes of the image
stand for one callable (`CodeAddresses`), so that a real `set_trap_table` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from hypervisor.public.types import VAddr


class Vector(IntEnum):
    """Exceptions that a Python guest can meet (Intel SDM vol. 3A §6.15)."""

    general_protection = 13
    page_fault = 14


TI_GET_IF: Final = 4
"""Bit of trap_info.flags (Xen public/arch-x86/xen.h): events are masked while the handler runs."""


class TrapGate(NamedTuple):
    """One entry of the virtual IDT (Xen public/arch-x86/xen.h, struct trap_info)."""

    flags: int
    cs: int
    address: int


@dataclass
class TrapFrame:
    """What the bounce frame tells a handler; cr2 lies in vcpu_info.arch.cr2.

    Returning from the handler is the iret: the access is tried again. Raising ends the access with that
    exception.
    """

    vector: int
    error_code: int
    user: bool
    upcall_mask: bool


class TrapTable:
    """The virtual IDT: vector → gate. Written by TRAP_TABLE effects alone."""

    def __init__(self) -> None:
        self._gates: dict[int, TrapGate] = {}

    def replace(self, entries: Iterable[Sequence[int]]) -> None:
        """Apply `[[vector, flags, cs, address]…]`; an empty list clears the table, address 0 one entry."""
        rows = list(entries)
        if not rows:
            self._gates.clear()
        for vector, flags, cs, address in rows:
            self._gates[vector] = TrapGate(flags, cs, address)

    def gate(self, vector: int) -> TrapGate | None:
        """The gate of `vector`; None if the guest registered no handler for it."""
        gate = self._gates.get(vector)
        return gate if gate is not None and gate.address else None


Handler = Callable[..., Any]


class CodeAddresses:
    """Virtual addresses in the image page that stand for the kernel's callables."""

    FIRST: Final = 0x800
    STEP: Final = 16
    LIMIT: Final = 0x1000

    def __init__(self) -> None:
        self.image = 0
        """Virtual address of the image page; set from the initial rip."""
        self._handlers: list[Handler] = []

    def address_of(self, handler: Handler) -> VAddr:
        """The address for `handler`, the same each time; MemoryError when the image is full (128)."""
        if handler not in self._handlers:
            if self.FIRST + len(self._handlers) * self.STEP >= self.LIMIT:
                raise MemoryError("no code address is left in the image")
            self._handlers.append(handler)
        return VAddr(self.image + self.FIRST + self._handlers.index(handler) * self.STEP)

    def handler_at(self, address: int) -> Handler | None:
        """The callable at `address`; None if no code lies there."""
        index, rest = divmod(address - self.image - self.FIRST, self.STEP)
        return self._handlers[index] if not rest and 0 <= index < len(self._handlers) else None
