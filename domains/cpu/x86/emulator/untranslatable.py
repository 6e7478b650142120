"""An instruction that Unicorn cannot translate is an invalid opcode, where the library would end the process.

LOCK before BT, BTS, BTR or BTC of a register is one: the translator makes code that uses an address which there is not, and then
calls abort. Any user program could end its domain so. A block that ends in abort is translated again as one instruction; if that
ends in abort, too, rip is at it, and the guest gets #UD, as on a processor.

     0  tb_gen_code, tcg_gen_code, abort, raise_exception_err, of the library      32  stack     40  1 within tcg_gen_code

    new_gen:    push %rbx … %r15 (callee-saved), %rdi, %rsi, %rdx, %rcx, %r8; mov %rsp, stack
                                                        rdi = CPUState, r8d = the block's flags, with its most instructions
    again:      call *tb_gen_code; pop all; ret
    new_code:   coding = 1; call *tcg_gen_code; coding = 0; ret
    new_abort:  coding == 0? jmp *abort
                coding = 0; mov stack, %rsp; the arguments as they were
                one instruction at most? raise_exception_err(env, #UD, 0), which leaves by longjmp
                one instruction at most from now on; jmp again
"""

from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

_FUNCTIONS: Final = ("tb_gen_code_x86_64", "tcg_gen_code_x86_64", "abort", "raise_exception_err_x86_64")
_CODE: Final = bytes.fromhex(
    """
    53554154415541564157575652514150488925c9ffffffff15a3ffffff4883c428415f415e415d415c5d5bc35348c705b0ff
    ffff01000000ff158affffff48c7059fffffff000000005bc348833d95ffffff007506ff2575ffffff48c70582ffffff0000
    0000488b2573ffffff4c8b0424488b4c2408488b542410488b742418488b7c24204489c025ff7f000083f80174144181e000
    80ffff4183c8014c890424e971ffffff4881c7508a0000be0600000031d2ff151effffff
    """
)
_CODE_AT, _NEW_GEN, _NEW_CODE, _NEW_ABORT = 64, 0x40, 0x6C, 0x8B


class Untranslatable:
    """The machine code, in the place of the library's functions from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(*_FUNCTIONS)
        self._page.put(_CODE_AT, _CODE)
        for name, at in zip(_FUNCTIONS, (_NEW_GEN, _NEW_CODE, _NEW_ABORT), strict=False):
            interposer.replace(name, self._page.address + at)
