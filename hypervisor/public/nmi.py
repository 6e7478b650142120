"""The guest's handler for non-maskable interrupts. Source: Xen public/nmi.h."""

from enum import IntEnum, IntFlag

from hypervisor.public.layout import Struct
from hypervisor.public.types import unsigned_long


class NmiOp(IntEnum):
    """First argument of nmi_op."""

    XENNMI_register_callback = 0
    XENNMI_unregister_callback = 1


XENNMI_register_callback, XENNMI_unregister_callback = NmiOp.__members__.values()


class NmiReason(IntFlag):
    """`nmi_reason` in arch_shared_info."""

    XEN_NMIREASON_io_error = 1 << 0
    XEN_NMIREASON_pci_serr = 1 << 1
    XEN_NMIREASON_unknown = 1 << 2


XEN_NMIREASON_io_error, XEN_NMIREASON_pci_serr, XEN_NMIREASON_unknown = NmiReason.__members__.values()


class xennmi_callback(Struct, size=16):
    """Argument of XENNMI_register_callback."""

    handler_address: unsigned_long  # IN: VAddr
    pad: unsigned_long
