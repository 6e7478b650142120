"""Where Xen enters the guest's kernel. Source: Xen public/callback.h."""

from enum import IntEnum
from typing import Final

from hypervisor.public.layout import Struct, u16
from hypervisor.public.types import unsigned_long


class CallbackOp(IntEnum):
    """First argument of callback_op."""

    CALLBACKOP_register = 0
    CALLBACKOP_unregister = 1


CALLBACKOP_register, CALLBACKOP_unregister = CallbackOp.__members__.values()


class CallbackType(IntEnum):
    """`type`: which entry."""

    CALLBACKTYPE_event = 0
    CALLBACKTYPE_failsafe = 1
    CALLBACKTYPE_syscall = 2
    CALLBACKTYPE_sysenter_deprecated = 3
    CALLBACKTYPE_nmi = 4
    CALLBACKTYPE_sysenter = 5
    CALLBACKTYPE_syscall32 = 7


(
    CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall,
    CALLBACKTYPE_sysenter_deprecated, CALLBACKTYPE_nmi, CALLBACKTYPE_sysenter,
    CALLBACKTYPE_syscall32,
) = CallbackType.__members__.values()  # fmt: skip

CALLBACKF_mask_events: Final = 1  # in `flags`: set evtchn_upcall_mask on entry


class callback_register(Struct, size=16):
    """Set an entry point; all IN."""

    type: u16  # CALLBACKTYPE_*
    flags: u16  # CALLBACKF_*
    address: unsigned_long  # VAddr


class callback_unregister(Struct, size=4):
    """Remove an entry point; all IN."""

    type: u16  # CALLBACKTYPE_*
    _unused: u16
