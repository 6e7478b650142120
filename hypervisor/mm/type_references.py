"""What validation asks of page types, so that the two can call each other and neither file imports the other in a circle.

    page_types ──imports──► validate, devalidate ──import──► this protocol, which PageTypes fulfils

They call each other down the levels of a page table: to validate an L4 is to take a type reference on each L3 that it
names, and the first one taken validates that L3, and so on. Four levels and one linear step bound the depth (Q4).
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from hypervisor.mm.budget import Portion
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import DomainMemory, VcpuMemory
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.tables import Tables
from hypervisor.public.types import DomId


class TypeReferences(Protocol):
    """Taking and dropping type references; see PageTypes for what each method does and raises."""

    frames: FrameTable
    contents: Contents
    tables: Tables
    domains: dict[DomId, DomainMemory]
    entries_checked: int

    def get_type(self, mfn: int, pgt: int, portion: Portion | None = None) -> None:
        """Take a type reference, with validation if it is the first."""

    def put_type(
        self,
        mfn: int,
        portion: Portion | None = None,
        *,
        partial_set: bool = False,
        parent: int | None = None,
    ) -> None:
        """Drop a type reference, with de-validation if it is the last."""

    def park(self, v: VcpuMemory, mfn: int, *, partial: bool, parent: int | None = None) -> None:
        """Leave a reference with the vCPU, to be dropped before its next operation."""

    def stamp_all(self, mfns: npt.NDArray[np.int64]) -> None:
        """The last type references of these frames have gone."""

    def controls(self, domid: int, target: int) -> bool:
        """Whether domain `domid` may act on the frames of `target`."""
