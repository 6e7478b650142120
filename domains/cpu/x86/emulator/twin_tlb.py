"""Two sets of translations for one emulated CPU, one in use: a 64-bit PV guest's kernel has one, its user space the other.

Both run in ring 3, and the page table tells them apart; with one set each return to user space has to drop it all, for what the
kernel may see its user space may not. Unicorn's TLB has a set for each kind of access (QEMU's mmu_idx):

    0   a kernel's under SMAP, which no guest has: here lies the set that is put aside
    1   ring 3's: the one in use
    2   kernels'; a PV guest's descriptors are read through it

Whatever empties the TLB, or drops a page of it, does so in all three. Only that a page may be stored to without a look, because
no code of it is left, must not be said of the set aside, which may have another page there: that function is replaced.

    CPUX86State - 0x890    u16: which sets have anything in them
                - 0x870    of each set: what is large, how much is used, the victims, an address: 0x2b8 bytes
                - 0x40     of each set: its size and its address
"""

import ctypes
from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

SET_DIRTY: Final = "tlb_set_dirty_x86_64"
SOURCE: Final = r"""
    .set ENV, 0x128;  .set DIRTY, -0x890;  .set SETS, -0x870;  .set SET, 0x2b8;  .set FAST, -0x40;  .set NOTDIRTY, 0x400

    /* ---- swap(env): the set in use and the one that is put aside */
swap:
    orw     $3, DIRTY(%rdi)             /* both have to be emptied when all is */
    mov     $(SET / 8), %ecx
1:  mov     SETS-8(%rdi,%rcx,8), %rax
    mov     SETS+SET-8(%rdi,%rcx,8), %rdx
    mov     %rdx, SETS-8(%rdi,%rcx,8)
    mov     %rax, SETS+SET-8(%rdi,%rcx,8)
    dec     %ecx
    jnz     1b
    movups  FAST(%rdi), %xmm0
    movups  FAST+16(%rdi), %xmm1
    movups  %xmm1, FAST(%rdi)
    movups  %xmm0, FAST+16(%rdi)
    ret

    /* ---- set_dirty(CPUState, address): stores to that page need no look any more, in the sets in use */
set_dirty:
    mov     ENV(%rdi), %rax
    mov     %rsi, %rcx
    and     $-4096, %rcx
    mov     %rcx, %rdx
    or      $NOTDIRTY, %rdx
    shr     $6, %rsi
    mov     %rsi, %r8
    and     FAST+16(%rax), %r8
    add     FAST+24(%rax), %r8
    cmp     %rdx, 8(%r8)
    jne     1f
    mov     %rcx, 8(%r8)
1:  and     FAST+32(%rax), %rsi
    add     FAST+40(%rax), %rsi
    cmp     %rdx, 8(%rsi)
    jne     2f
    mov     %rcx, 8(%rsi)
2:  ret
"""
"""The listing, in GNU as' language: to be read, and for the tests, which assemble it and compare."""
MACHINE_CODE: Final = bytes.fromhex(
    "66838f70f7ffff03b957000000488b84cf88f7ffff488b94cf40faffff488994cf88f7ffff488984cf40faffffffc975"
    "dc0f1047c00f104fd00f114fc00f1147d0c3488b87280100004889f14881e100f0ffff4889ca4881ca0004000048c1ee"
    "064989f04c2340d04c0340d849395008750449894808482370e0480370e848395608750448894e08c3"
)
_SET_DIRTY_AT: Final = 0x42


class TwinTlb:
    """The code, for every CPU of the process."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put(0, MACHINE_CODE)
        self.set_dirty: Final = self._page.address + _SET_DIRTY_AT
        """What takes the place of the library's SET_DIRTY."""
        interposer.replace(SET_DIRTY, self.set_dirty)
        self.swap: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._page.address)
        """The set aside is in use, and the one that was in use aside. It gets the address of the CPUX86State."""
