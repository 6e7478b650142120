"""The records of an HVM domain that are not its pages, each as plain data.

HVM_CONTEXT   what XEN_DOMCTL_gethvmcontext gives: Xen's to check
HVM_PARAMS    count u32 | 0 | (index u64 | value u64)[count]
"""

from __future__ import annotations

import struct
from typing import Final

from domains.dom0.toolstack.stream.framing import Record
from domains.dom0.toolstack.stream.pv_records import exactly
from hypervisor.public.hvm.params import HVM_NR_PARAMS

PARAMS_HEAD: Final = struct.Struct("<II")
PARAM: Final = struct.Struct("<QQ")
MOST_GFN: Final = 1 << 24
"""Guests have 36 bits of physical address: their pages have numbers below."""


def pack_params(params: dict[int, int]) -> list[bytes]:
    """The body of HVM_PARAMS: by index, what is not 0."""
    return [PARAMS_HEAD.pack(len(params), 0), *(PARAM.pack(*param) for param in params.items())]


def unpack_params(record: Record) -> dict[int, int]:
    """Raises StreamError."""
    count, _ = record.unpack(PARAMS_HEAD)
    exactly(record, PARAMS_HEAD.size + count * PARAM.size)
    params = dict(PARAM.iter_unpack(record.body[PARAMS_HEAD.size :]))
    record.need(len(params) == count, "it has a parameter twice")
    wrong = [index for index in params if index >= HVM_NR_PARAMS]
    record.need(not wrong, f"there is no HVM parameter {wrong[0] if wrong else 0}")
    return params
