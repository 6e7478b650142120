"""Stores at full speed: a page counts as code only once the guest has fetched from it.

Unicorn looks at every store to a page that may be executed, for there may be code that it has translated. Most such pages are
data: a kernel says late, if at all, what of its memory is not to be executed. So each entry that enters the emulated CPU's TLB
passes through code of ours, which takes the right to execute away until the page is fetched from, and marks the frames that
ever were:

    for a fetch     the frame is marked; if data of it may be stored without a look, all entries go, and this one comes anew
    for data        of a marked frame: every store is looked at, by whatever address it comes, executable there or not
                    of another: the first one is looked at, the others are not

Invariants: an entry that can be fetched from is one of a marked frame, and so is every frame of which anything is translated; an
entry whose stores are not looked at is one of a frame that is not marked. Marks are never taken back.
"""

import ctypes
import mmap
import struct
from typing import Final

from domains.cpu.x86.emulator.machine_code import CodePage
from domains.cpu.x86.emulator.stop_stub import CPU_CLASS
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary, exported, peek
from hypervisor.machine.memory import MachineMemory

FILL: Final = "x86_cpu_tlb_fill_x86_64"
FILLS: Final = (0x48, 0x50)
"""Of a CPUClass: the pointers to the function that fills the TLB, in force and as it was."""
CODE_AT: Final = 40
SOURCE: Final = r"""
    .set FETCH, 2;  .set ENV, 0x128;  .set MASK, -0x40;  .set TABLE, -0x38
    .set CODE, 0x10;  .set ADDEND, 0x20;  .set HAS_CODE, 1;  .set PLAIN, 2
fill_tlb:        .quad 0                /* the library's own function */
flush_tlb:       .quad 0
memory:          .quad 0                /* where machine frame 0 lies in this process */
frames:          .quad 0                /* how many there are */
marks:           .quad 0                /* the address of a byte for each: 0, HAS_CODE or PLAIN */

    /* ---- fill(CPUState, address, size, access, translation regime, probe; where it was called from) -> filled? */
fill:
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    sub     $8, %rsp
    mov     %rdi, %rbx
    mov     %rsi, %rbp
    mov     %edx, %r15d
    mov     %ecx, %r12d
    mov     %r8d, %r13d
    mov     %r9d, %r14d
again:
    mov     64(%rsp), %rax
    sub     $8, %rsp
    push    %rax
    mov     %rbx, %rdi
    mov     %rbp, %rsi
    mov     %r15d, %edx
    mov     %r12d, %ecx
    mov     %r13d, %r8d
    mov     %r14d, %r9d
    call    *fill_tlb(%rip)
    add     $16, %rsp
    test    %al, %al
    jz      9f
    mov     ENV(%rbx), %rax             /* the registers, behind the TLB */
    mov     %r13d, %ecx
    shl     $4, %rcx
    add     %rax, %rcx
    mov     %rbp, %rdx
    shr     $6, %rdx
    and     $-64, %rdx
    and     MASK(%rcx), %rdx
    add     TABLE(%rcx), %rdx
    mov     ADDEND(%rdx), %rax          /* rdx = the entry; rax = the frame, then its mark */
    add     %rbp, %rax
    sub     memory(%rip), %rax
    shr     $12, %rax
    cmp     frames(%rip), %rax
    jae     8f
    add     marks(%rip), %rax
    cmp     $FETCH, %r12d
    je      3f
    testb   $HAS_CODE, (%rax)
    jnz     2f
    movb    $PLAIN, (%rax)              /* data of a frame without code: only the first store is looked at */
    movq    $-1, CODE(%rdx)
    jmp     8f
2:  cmpq    $-1, CODE(%rdx)             /* data of a frame with code: all are, here too where it is not executable */
    jne     8f
    movq    $-2, CODE(%rdx)
    jmp     8f
3:  mov     (%rax), %cl                 /* a fetch */
    movb    $HAS_CODE, (%rax)
    cmp     $PLAIN, %cl
    jne     8f
    mov     %rbx, %rdi
    call    *flush_tlb(%rip)
    jmp     again
8:  mov     $1, %eax
9:  add     $8, %rsp
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret
"""
"""The listing, in GNU as' language: to be read, and for the tests, which assemble it and compare. An entry of the TLB has
64 bytes: the addresses for which it may be read, written and fetched from, or -1, and at ADDEND what makes a guest's
address the host's. The slow path of a store takes its look away from an entry whose third address is -1; -2 matches no
address either.
"""
MACHINE_CODE: Final = bytes.fromhex(
    "535541544155415641574883ec084889fb4889f54189d74189cc4589c54589ce488b4424404883ec08504889df4889ee"
    "4489fa4489e14589e84589f1ff1596ffffff4883c41084c00f848c000000488b83280100004489e948c1e1044801c148"
    "89ea48c1ea064883e2c0482351c0480351c8488b42204801e8482b0568ffffff48c1e80c483b0565ffffff7348480305"
    "64ffffff4183fc027423f60001750dc6000248c74210ffffffffeb2948837a10ff752248c74210feffffffeb188a08c6"
    "000180f902750e4889dfff1510ffffffe94bffffffb8010000004883c408415f415e415d415c5d5bc3"
)


class FetchedPages:
    """Of one emulated CPU whose memory is `memory`, for as long as this object lives. Where somebody else has replaced what fills
    the TLB (the laboratory counts misses), it is not `in_force`, and all is as Unicorn does it: slower, and the same.
    """

    def __init__(self, library: UnicornLibrary, memory: MachineMemory) -> None:
        self._marks = mmap.mmap(-1, memory.nr_frames, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._first = (ctypes.c_uint8 * memory.nr_frames).from_buffer(self._marks)
        self._page = CodePage()
        self._page.put_functions(FILL, "tlb_flush_x86_64")
        self._page.put(16, struct.pack("<3Q", memory.base, memory.nr_frames, ctypes.addressof(self._first)))
        self._page.put(CODE_AT, MACHINE_CODE)
        cpu_class = int.from_bytes(peek((library.cpu.value or 0) + CPU_CLASS, 8), "little")
        if any(int.from_bytes(peek(cpu_class + place, 8), "little") != exported(FILL) for place in FILLS):
            self.in_force = False
            return
        self.in_force = True
        for place in FILLS:
            ctypes.c_uint64.from_address(cpu_class + place).value = self._page.address + CODE_AT
        library.tlb_flush()

    def has_code(self, mfn: int) -> bool:
        """Whether the guest has ever fetched from this frame."""
        return self._marks[mfn] == 1
