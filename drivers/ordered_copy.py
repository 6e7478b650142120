"""Copies that build on each other, made with patience: for back ends that reach their front ends by grant copy.

A granter whose CPU is emulated has to stand still while the flags of its grants are changed. It is asked to and soon
does, on a busy host later than soon: a copy that was only put off is no failure of a ring or a disk.
"""

from __future__ import annotations

from typing import Any, Final

from numpy.typing import NDArray

from domains.kernel.kernel import Kernel
from hypervisor.public.grant_table import GNTST_eagain

PATIENCE: Final = 1_000_000_000
"""Nanoseconds after which a front end whose domain does not come to a stop is given up."""


def copy_in_order(kernel: Kernel, rows: NDArray[Any]) -> int:
    """As Grants.copy_in_order; GNTST_eagain only after PATIENCE."""
    give_up = kernel.now() + PATIENCE
    status = kernel.grants.copy_in_order(rows)
    while status == GNTST_eagain and kernel.now() < give_up:
        status = kernel.grants.copy_in_order(rows)
    return status
