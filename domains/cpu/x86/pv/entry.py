"""What Xen's entry code does in another way for each kind of PV guest: the functions, chosen once (pv/kinds).

The shared part of the entry code calls these by `v.entry`; what they are for a kind is in files of its own.
"""

from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from hypervisor.public.abi import Abi

V = TypeVar("V")
V_contra = TypeVar("V_contra", contravariant=True)
Leaf = tuple[int, int, int, int]


class Bounce(Protocol[V_contra]):
    """Enters the guest's kernel through a frame on its stack."""

    def __call__(
        self, v: V_contra, cs: int, address: int, *, mask: bool, error_code: int | None = None
    ) -> None:
        """At `address` in segment `cs`; `mask`: hold back upcalls there. Ends the domain if it cannot be done."""


class Entry(NamedTuple, Generic[V]):
    """`local_calls`: hypercalls that never leave the process, by number; `local_effects`: those that a LOCAL may name."""

    bounce: Bounce[V]
    load_context: Callable[..., None]
    """(vCPU, bytes of its context, what else the CONTEXT effect has)."""
    save_context: Callable[[V], bytes]
    software_interrupt: Callable[[V, int], None]
    """INT n, INT3 or INTO: (vCPU, vector); rip is behind it."""
    page_fault: Callable[[V, int, int], None]
    """(vCPU, address, error code)."""
    syscall: Callable[[V], None]
    """SYSCALL; rip is behind it."""
    cpuid: Callable[[int, int], Leaf]
    """(leaf, subleaf)."""
    local_calls: Mapping[int, Callable[..., int]]
    local_effects: Mapping[int, Callable[..., int]]
    abi: Abi
    """How the guest lays out what it shares with Xen."""
