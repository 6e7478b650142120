"""Writing results back into a guest's structure: the fields that are outputs, and not a byte beside them
(XSA-122).
"""

from hypervisor.hypercalls.call import Call
from hypervisor.public.layout import Struct


def write_outputs(call: Call, va: int, record: Struct, *fields: str) -> None:
    """Write these fields of `record` into the guest's structure at `va`. XenError(EFAULT)."""
    layout = call.abi.layout(type(record))
    for name in fields:
        call.copy_to_guest(va + layout.offsetof(name), layout.pack_field(record, name))
