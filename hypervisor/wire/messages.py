"""What core and domain processes say to each other over ZeroMQ: numbers, in msgpack, one frame a message.

    request  [seq, vcpu, nr, a1, a2, a3, a4, a5, events_seen]    process → core; 64-bit unsigned arguments
             […, posts]                                          what the vCPU has posted before, performed first
    posts    [vcpu, posts]                                       process → core, one way: nothing is asked
    irq      [irq]                                               process → core, one way (a host descriptor is ready)
    reply    [vcpu, seq, result, effects]                        core → process
    look     [0, LOOK, wait, []]                                 core → Dom0's process, on a machine that repeats itself

`seq` counts a vCPU's requests from 1. The core performs the next number only: a repeated, skipped, malformed or oversized
message ends that domain. `nr` >= 0 is a hypercall; the negative numbers of `Request` are the process's own.

`posts` are bytes: two words (u64) for each posted operation, at most MAX_POSTS of them. The lowest three bits of the first word
are its kind (`Post`). A post that is refused ends the domain, too: the process said that it was certain to be permitted.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import msgpack

from hypervisor.wire.errors import ProtocolError as ProtocolError

MAX_MESSAGE: Final = 16 * 1024
"""Bytes of the largest message from a domain process; it is one ZeroMQ frame."""

U64_MASK: Final = (1 << 64) - 1
NR_ARGS: Final = 5
REQUEST_FIELDS: Final = 9
VCPU_FIELD: Final = 1
NR_FIELD: Final = 2
"""Where a request has its vCPU, and its number."""
POSTS_FIELDS: Final = 2
"""Fields of a message of posts alone."""
LOOK: Final = 0
"""In the place of `seq`: no answer, but a request to look at the host's descriptors, and with `wait` until one is ready. It is
answered by an irq, NO_IRQ if none is, or by nothing if an answer comes first."""
NO_IRQ: Final = 0
"""An irq that nobody binds."""
_INTS: Final = {int}


class Request(IntEnum):
    """What a domain process asks on its own account; argument meanings beside each."""

    START = -1  # the process is ready; answered, with CONTEXT, when the vCPU is first scheduled
    STOPPED = -2  # the stop byte was seen; answered when the vCPU holds a slice again
    CRASH = -3  # the guest broke the contract: (host-readable text follows as a1: bytes)
    SAVED = (
        -4
    )  # the vCPU's registers (a1: vcpu_guest_context, HVM: xenoscope_hvm_vcpu), asked for by SAVE_CONTEXT
    PTE_WRITE = -5  # a store to a read-only page table: (va, size, value, has_old, old)
    NEW_BASEPTR = -6  # mov to CR3 by the guest's kernel: (mfn)
    LDT_PAGE = -7  # the CPU missed a page of the LDT: (byte offset in the LDT)
    TRIPLE_FAULT = -8  # an HVM guest could not deliver a double fault: (its registers as text, a1: bytes)


_REQUESTS: Final = frozenset(int(request) for request in Request)
_WITH_POSTS: Final = (POSTS_FIELDS, REQUEST_FIELDS + 1)
_FORMS: Final = (REQUEST_FIELDS, *_WITH_POSTS, 1)
"""How many fields a message has."""
_WITH_BYTES: Final = frozenset((int(Request.CRASH), int(Request.SAVED), int(Request.TRIPLE_FAULT)))


class Post(IntEnum):
    """What a process may do before it says so (docs/posted-operations.md); the words of each."""

    PT_ENTRY = 0  # (machine address of an entry of an L1 table, the entry as it stands there now)
    NEW_BASEPTR = 1  # (kind, frame of a pinned L4 table that the kernel runs on now)
    NEW_USER_BASEPTR = 2  # (kind, frame of a pinned L4 table for user mode, or 0: none)
    SINGLESHOT_TIMER = 3  # (kind, the system time, ns, at which the vCPU gets VIRQ_TIMER)
    EVTCHN_SEND = 4  # (kind, port): an event was sent


POST_SIZE: Final = 16
MAX_POSTS: Final = 256


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
    VCPU_INFO = 16
    LOCAL = 17
    CONTEXT = 18
    SAVE_CONTEXT = 19
    CLOSE_MEMFD = 20
    P2M = 21
    NMI = 22


CALLBACK_HVM_VECTOR: Final = 0x100
"""The type of a CALLBACK that is no address but the vector by which events interrupt an HVM guest; Xen's own types are less."""


M2P_MEMFD: Final = -1
"""The memfd id of Xen's own frames, which every process maps read-only; the others' is their domain's id."""
FRAME_TYPES_MEMFD: Final = -2
"""That of the frame table's columns (machine/frame_types.py), read-only too."""

EffectRecord = list[Any]
"""`[Effect, field…]`; fields are ints, bytes or lists of ints."""


pack: Final[Callable[[Any], bytes]] = msgpack.Packer().pack
"""A message as msgpack."""


def unpack_reply(data: bytes) -> list[Any]:
    """A reply, from the core, which the process trusts."""
    return msgpack.unpackb(data, strict_map_key=False)  # type: ignore[no-any-return]


def unpack_request(data: bytes) -> list[Any]:
    """A request, an irq or posts from a process nobody trusts: a list of unsigned 64-bit ints, but for `nr`, which is negative
    for a Request, a1 of CRASH, SAVED and TRIPLE_FAULT, which is bytes, and posts, which are bytes and the last field.

    Raises ProtocolError for everything else. Bounded by MAX_MESSAGE, which the socket enforces too.
    """
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"message of {len(data)} bytes")
    try:
        message = msgpack.unpackb(data, max_array_len=REQUEST_FIELDS + 1, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not msgpack: {error}") from None
    if type(message) is not list or len(message) not in _FORMS:
        raise ProtocolError("not a request")
    if len(message) not in _WITH_POSTS:
        return _check_numbers(message)
    posts = message.pop()
    if type(posts) is not bytes or not 0 < len(posts) <= MAX_POSTS * POST_SIZE or len(posts) % POST_SIZE:
        raise ProtocolError("no posts where posts should be")
    return [*_check_numbers(message), posts]


def _check_numbers(message: list[Any]) -> list[Any]:
    """`message` itself, all of whose fields are what they should be."""
    if set(map(type, message)) == _INTS and min(message) >= 0:
        return message
    for i, field in enumerate(message):
        if type(field) is int:
            if field < 0 and not (i == NR_FIELD and field in _REQUESTS):
                raise ProtocolError(f"field {i} is {field}")
        elif not (type(field) is bytes and i == NR_FIELD + 1 and message[NR_FIELD] in _WITH_BYTES):
            raise ProtocolError(f"field {i} is {type(field).__name__}")
    return message
