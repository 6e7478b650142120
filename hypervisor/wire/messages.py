"""What core and domain processes say to each other over ZeroMQ: numbers, in msgpack, one frame a message.

    request  [seq, vcpu, nr, a1, a2, a3, a4, a5, events_seen]    process → core; 64-bit unsigned arguments
    irq      [irq]                                               process → core, one way (a host descriptor is ready)
    reply    [vcpu, seq, result, effects]                        core → process

`seq` counts a vCPU's requests from 1. The core performs the next number only: a repeated, skipped, malformed or oversized
message ends that domain. `nr` >= 0 is a hypercall; the negative numbers of `Request` are the process's own.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import msgpack

MAX_MESSAGE: Final = 16 * 1024
"""Bytes of the largest message from a domain process; it is one ZeroMQ frame."""

U64_MASK: Final = (1 << 64) - 1
NR_ARGS: Final = 5
REQUEST_FIELDS: Final = 9
NR_FIELD: Final = 2
"""Where a request has its number."""
_INTS: Final = {int}


class Request(IntEnum):
    """What a domain process asks on its own account; argument meanings beside each."""

    START = -1  # the process is ready; answered, with CONTEXT, when the vCPU is first scheduled
    STOPPED = -2  # the stop byte was seen; answered when the vCPU holds a slice again
    CRASH = -3  # the guest broke the contract: (host-readable text follows as a1: bytes)
    SAVED = -4  # the vCPU's registers (a1: bytes of vcpu_guest_context, HVM: hvm_hw_cpu), asked for by Effect.SAVE_CONTEXT
    PTE_WRITE = -5  # a store to a read-only page table: (va, size, value, has_old, old)
    NEW_BASEPTR = -6  # mov to CR3 by the guest's kernel: (mfn)
    LDT_PAGE = -7  # the CPU missed a page of the LDT: (byte offset in the LDT)
    TRIPLE_FAULT = -8  # an HVM guest could not deliver a double fault: (its registers as text, a1: bytes)


_REQUESTS: Final = frozenset(int(request) for request in Request)
_WITH_BYTES: Final = frozenset((int(Request.CRASH), int(Request.SAVED), int(Request.TRIPLE_FAULT)))


class Effect(IntEnum):
    """What a reply does to the caller's CPU, in order. Fields: docs/contracts.md."""

    LOAD_CR3 = 1
    LOAD_USER_CR3 = 2
    FLUSH_TLB = 3
    INVLPG = 4
    FLUSH_CODE = 5
    TRAP_TABLE = 6
    CALLBACK = 7
    GDT = 8
    LDT = 9
    VM_ASSIST = 10
    MAP_EXTENT = 11
    UNMAP_EXTENT = 12
    EVTCHN_UNMASK = 13
    EVTCHN_CLEAR = 14
    EVTCHN_VCPU = 15
    VCPU_INFO = 16
    LOCAL = 17
    CONTEXT = 18
    SAVE_CONTEXT = 19
    CLOSE_MEMFD = 20
    P2M = 21


CALLBACK_HVM_VECTOR: Final = 0x100
"""The type of a CALLBACK that is no address but the vector by which events interrupt an HVM guest; Xen's own types are less."""


M2P_MEMFD: Final = -1
"""The memfd id of Xen's own frames, which every process maps read-only; the others' is their domain's id."""

EffectRecord = list[Any]
"""`[Effect, field…]`; fields are ints, bytes or lists of ints."""


class ProtocolError(Exception):
    """A message that no honest domain process sends."""


pack: Final[Callable[[Any], bytes]] = msgpack.Packer().pack
"""A message as msgpack."""


def unpack_reply(data: bytes) -> list[Any]:
    """A reply, from the core, which the process trusts."""
    return msgpack.unpackb(data, strict_map_key=False)  # type: ignore[no-any-return]


def unpack_request(data: bytes) -> list[Any]:
    """A request or an irq from a process nobody trusts: a list of unsigned 64-bit ints, but for `nr`, which is negative for a
    Request, and a1 of CRASH, SAVED and TRIPLE_FAULT, which is bytes.

    Raises ProtocolError for everything else. Bounded by MAX_MESSAGE, which the socket enforces too.
    """
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"message of {len(data)} bytes")
    try:
        message = msgpack.unpackb(data, max_array_len=REQUEST_FIELDS, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not msgpack: {error}") from None
    if type(message) is not list or len(message) not in (1, REQUEST_FIELDS):
        raise ProtocolError("not a request")
    if set(map(type, message)) == _INTS and min(message) >= 0:
        return message
    for i, field in enumerate(message):
        if type(field) is int:
            if field < 0 and not (i == NR_FIELD and field in _REQUESTS):
                raise ProtocolError(f"field {i} is {field}")
        elif not (type(field) is bytes and i == NR_FIELD + 1 and message[NR_FIELD] in _WITH_BYTES):
            raise ProtocolError(f"field {i} is {type(field).__name__}")
    return message
