"""A user page table made by hand: one page at USER_VA under an L4 of its own, as a guest kernel makes a process."""

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from domains.kernel.page_tables import READ_WRITE, TABLE_FLAGS
from hypervisor.machine.paging import table_index
from hypervisor.public.types import PAGE_SHIFT, VAddr
from hypervisor.public.xen import (
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_PIN_L4_TABLE,
    mmuext_op,
    mmuext_op_arg1,
)

USER_VA = VAddr(0x40_0000)


def enter_user_space(kernel: Kernel) -> Page:
    """Build and load the user page table; the page that user code sees at USER_VA."""
    memory = kernel.memory
    page = child = memory.alloc_page()
    flags = READ_WRITE
    for level in (1, 2, 3, 4):
        table = memory.alloc_page()
        entry = child.mfn << PAGE_SHIFT | flags
        kernel.cpu.store(table.va + table_index(USER_VA, level) * 8, entry.to_bytes(8, "little"))
        memory.make_read_only(table)
        child, flags = table, TABLE_FLAGS
    arg = mmuext_op_arg1(mfn=child.mfn)
    ops = [mmuext_op(cmd=MMUEXT_PIN_L4_TABLE, arg1=arg), mmuext_op(cmd=MMUEXT_NEW_USER_BASEPTR, arg1=arg)]
    kernel.hypercalls.hypercall_mmuext_op(ops)
    return page
