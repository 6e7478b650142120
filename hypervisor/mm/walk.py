"""Walks through the core's own copies of page tables, and copies between the core and guest memory."""

from typing import NamedTuple

from hypervisor.public.types import MAddr, Mfn


class Walk(NamedTuple):
    """What a virtual address leads to."""

    maddr: MAddr
    mfn: Mfn
    l1: Mfn
    """The L1 table that was used last."""
    entry: int
    """The L1 entry as the core recorded it."""
