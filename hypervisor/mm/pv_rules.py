"""What differs between a 64-bit and a 32-bit PV guest for memory management: one object for each width, chosen once.

    PV64   four levels; kernel and user code in ring 3, so every entry has the user bit; Xen has slots of the L4
    PV32   three levels (PAE), of which the top one has four entries; the kernel runs in ring 1, so entries stay as the guest
           writes them; Xen has slots of the L2 that the last of the four names

The CPU is in long mode in both cases: above a 32-bit guest's L3 there is an L4 of Xen's (xen_slots.py), which gives the four
entries their place, and for which the L3's entries need RW and US.
Source: Xen arch/x86/mm.c, pv/mm.h (is_pv_32bit_domain).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from hypervisor.machine.entries import (
    UPPER_DISALLOW,
    Bits,
    Words,
    adjust_l1e,
    adjust_l1es,
    adjust_upper,
    adjust_upper_of_32bit,
    unadjusted,
    unadjusted_many,
)
from hypervisor.machine.frame_types import L3, L4, PAE_XEN_L2
from hypervisor.machine.paging import PAE, PAGE_NX, PTE_MFN_MASK, PV64, PagingFormat
from hypervisor.mm import descriptor_rules
from hypervisor.mm.contents import Entries
from hypervisor.mm.layout import (
    COMPAT_L2_PAGETABLE_FIRST_XEN_SLOT,
    ENTRIES,
    ROOT_PAGETABLE_FIRST_XEN_SLOT,
    ROOT_PAGETABLE_LAST_XEN_SLOT,
    addr_ok,
    compat_addr_ok,
)

NO_SLOTS: Final = range(0)
LAST_PAE_SLOT: Final = 3
"""Of an L3 with four entries: the one whose L2 has Xen's slots."""
PAE_L3_DISALLOW: Final = UPPER_DISALLOW | ~PTE_MFN_MASK & (PAGE_NX | 0x7FF << 52)
"""A PAE L3 entry has no rights and nothing above the frame number."""


@dataclass(frozen=True)
class PvRules:
    """Page tables by their type in the frame table; slots as ranges."""

    address_size: int
    """Bits of the guest's linear addresses."""
    paging: PagingFormat
    """How the guest's own tables are walked, from what its CR3 names."""
    top: int
    """The type of the table that a base pointer names."""
    kernel_rpl: int
    """The ring of the guest's kernel."""
    addr_ok: Callable[[int], bool]
    """The guest may use this linear address (U7)."""
    adjust_l1e: Callable[[int], int]
    adjust_l1es: Callable[[Words, Bits], Words]
    adjust_upper: Callable[[int, int], int]
    """An entry as Xen writes it (P6); of the last, (entry, level)."""
    checked_descriptor: Callable[[int], int]
    checked_descriptors: Callable[[Entries], Entries]
    """A descriptor, or a page of them, as it may be loaded (D2)."""
    xen_slots: Mapping[int, range]
    """What the guest writes there is replaced when the table is promoted (P7)."""
    fixed_slots: Mapping[int, range]
    """Slots that nobody changes while the table is one."""
    needed_slots: Mapping[int, int] = field(default_factory=dict)
    """A slot without which the table is none."""
    children: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(level, slot) -> type of the table that this entry names, where it is not the plain one of the level below."""
    disallow: Mapping[int, int] = field(default_factory=dict)
    """Level -> bits that no entry may have (P1), where they are not UPPER_DISALLOW."""
    linear_levels: frozenset[int] = frozenset((2, 3, 4))
    """Levels at which a table may name one of its own level (P11)."""

    def child(self, level: int, slot: int) -> int:
        """The type of the table that an entry of a table of `level` names."""
        return self.children.get((level, slot), level - 1)

    def disallowed(self, level: int) -> int:
        """Bits that no present entry of a table of `level`, above 1, may have (P1)."""
        return self.disallow.get(level, UPPER_DISALLOW)


_ROOT_SLOTS: Final = range(ROOT_PAGETABLE_FIRST_XEN_SLOT, ROOT_PAGETABLE_LAST_XEN_SLOT + 1)
PV64_RULES: Final = PvRules(
    address_size=64,
    paging=PV64,
    top=L4,
    kernel_rpl=3,
    addr_ok=addr_ok,
    adjust_l1e=adjust_l1e,
    adjust_l1es=adjust_l1es,
    adjust_upper=adjust_upper,
    checked_descriptor=descriptor_rules.checked,
    checked_descriptors=descriptor_rules.checked_page,
    xen_slots={L4: _ROOT_SLOTS},
    fixed_slots={L4: _ROOT_SLOTS},
)
"""A 64-bit PV guest; a translated guest has no tables that these rules are about."""

_L2_SLOTS: Final = range(COMPAT_L2_PAGETABLE_FIRST_XEN_SLOT, ENTRIES)
PV32_RULES: Final = PvRules(
    address_size=32,
    paging=PAE,
    top=L3,
    kernel_rpl=1,
    addr_ok=compat_addr_ok,
    adjust_l1e=unadjusted,
    adjust_l1es=unadjusted_many,
    adjust_upper=adjust_upper_of_32bit,
    checked_descriptor=descriptor_rules.checked_of_32bit,
    checked_descriptors=descriptor_rules.checked_page_of_32bit,
    xen_slots={L3: range(LAST_PAE_SLOT + 1, ENTRIES), PAE_XEN_L2: _L2_SLOTS},
    fixed_slots={L3: range(LAST_PAE_SLOT, ENTRIES), PAE_XEN_L2: _L2_SLOTS},
    needed_slots={L3: LAST_PAE_SLOT},
    children={(3, LAST_PAE_SLOT): PAE_XEN_L2},
    disallow={3: PAE_L3_DISALLOW},
    linear_levels=frozenset((2,)),
)
"""A 32-bit PV guest."""
RULES: Final = {rules.address_size: rules for rules in (PV64_RULES, PV32_RULES)}
"""By the bits of an address."""
