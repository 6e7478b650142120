"""How the records of an HVM guest's saved state are strung together: the records themselves are in `arch_x86/hvm/save.py`.

Source: Xen public/hvm/save.h.
"""

from typing import Final

from hypervisor.public.layout import Struct, u16, u32

HVM_SAVE_CODE_END: Final = 0  # HVM_SAVE_CODE(END)


class hvm_save_descriptor(Struct, size=8):
    """Stands before each record; one of type END, without a record, is the last."""

    typecode: u16  # HVM_SAVE_CODE_*
    instance: u16  # which vCPU
    length: u32  # bytes of the record behind it
