"""MOV to CR0 of what no CR0 can be is #GP(0), where the library's function would load it (Intel SDM vol. 2B, MOV - Move
to/from Control Registers): NW without CD, PG without PE, PG with EFER.LME but without CR4.PAE, bits above 31.

     0    helper_write_crN, of the library: (env, number, value)
     8    raise_exception_err_ra: (env, vector, error code, return address)
    16    test %esi, %esi; jnz 3f                                        CR0?
          testl $HF_CS64, HFLAGS(%rdi); jz 1f                            32-bit code has no upper half
          mov %rdx, %rax; shr $32, %rax; jnz 4f
          1: bt $29, %edx; jnc 2f; bt $30, %edx; jnc 4f                  NW, CD
          2: test %edx, %edx; jns 3f; test $1, %dl; jz 4f                PG, PE
          cmpl $0, CR0(%rdi); jl 3f                                      PG already
          testl $LME, EFER(%rdi); jz 3f; testl $PAE, CR4(%rdi); jnz 3f
          4: mov (%rsp), %rcx; mov $GP, %esi; xor %edx, %edx; jmp *raise_exception_err_ra(%rip)
          3: jmp *helper_write_crN(%rip)
"""

from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

WRITE_CR: Final = "helper_write_crN_x86_64"
RAISE: Final = "raise_exception_err_ra_x86_64"
_CODE_AT: Final = 16
_CODE: Final = bytes.fromhex(
    """
    85f6755cf787b00000000080000074094889d048c1e82075360fbae21d73060fbae21e732a85d27937f6c201742183bfa801
    0000007c29f7875002000000010000741df787c8010000200000007511488b0c24be0d00000031d2ff2598ffffffff258aff
    ffff
    """
)


class ControlZero:
    """Machine code in the place of the library's function from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(WRITE_CR, RAISE)
        self._page.put(_CODE_AT, _CODE)
        interposer.replace(WRITE_CR, self._page.address + _CODE_AT)
