"""LTR of a null selector is #GP(0) (Intel SDM vol. 2A, LTR). The library's function for it loads one, and ends the process at the
next exception that needs a stack of the TSS.

     0    helper_ltr, of the library: (env, selector)
     8    raise_exception_err_ra: (env, vector, error code, return address)
    16    test $0xfffc, %esi; jz 1f; jmp *helper_ltr(%rip)
          1: mov (%rsp), %rcx; mov $GP, %esi; xor %edx, %edx; jmp *raise_exception_err_ra(%rip)
"""

from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

LTR: Final = "helper_ltr_x86_64"
RAISE: Final = "raise_exception_err_ra_x86_64"
_CODE_AT: Final = 16
_CODE: Final = bytes.fromhex("f7c6fcff0000 7406 ff25e2ffffff 488b0c24 be0d000000 31d2 ff25d9ffffff")


class NullTask:
    """Machine code in the place of the library's function from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(LTR, RAISE)
        self._page.put(_CODE_AT, _CODE)
        interposer.replace(LTR, self._page.address + _CODE_AT)
