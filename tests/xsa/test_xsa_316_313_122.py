"""XSA-316, XSA-313 and XSA-122: what a guest reads back from an operation.

The flaws. XSA-316: an internal error code, a positive number, came out as a grant operation's status, which
guests take for success. XSA-313 and XSA-122: bytes of the hypervisor's own memory that nobody had written
went out to guests, in the padding of structures and in fields that an operation does not set.

The probe. Every structure of every grant and event channel operation is filled with a poison byte and given
random fields, then the operation is performed by a guest and by Dom0. Every status is 0 or negative, an
operation that succeeded had an effect, and every byte that is not an output of that operation still holds
what the guest put there.
"""

import random
from typing import Any

import numpy as np
import pytest

from hypervisor.hypercalls import grant_table_op
from hypervisor.hypercalls.call import Call
from hypervisor.hypercalls.event_channel_op import EVTCHNOPS
from hypervisor.hypercalls.grant_table_op import BATCHED, Batched
from hypervisor.public import event_channel, grant_table
from hypervisor.public.event_channel import EventChannelOp
from hypervisor.public.grant_table import GrantStatus, GrantTableOp
from hypervisor.public.layout import Struct
from hypervisor.public.types import VAddr
from hypervisor.public.xen import Hypercall
from tests.hypervisor.grants.granting import GrantingDomains, Guest, granting_domains

POISON = 0xDB
GRANT_OUTPUTS = {
    "gnttab_map_grant_ref": ("status", "handle", "dev_bus_addr"),
    "gnttab_query_size": ("status", "nr_frames", "max_nr_frames"),
    "gnttab_set_version": ("version",),
    "gnttab_get_version": ("version",),
    "gnttab_cache_flush": (),
}
EVENT_OUTPUTS = {
    "evtchn_alloc_unbound": ("port",),
    "evtchn_bind_interdomain": ("local_port",),
    "evtchn_bind_virq": ("port",),
    "evtchn_bind_ipi": ("port",),
    "evtchn_bind_pirq": ("port",),
    "evtchn_status": ("status", "vcpu", "u"),
}


def grant_struct(op: GrantTableOp) -> type[Struct]:
    return getattr(grant_table, "gnttab_" + op.name.removeprefix("GNTTABOP_"))  # type: ignore[no-any-return]


def event_struct(op: EventChannelOp) -> type[Struct]:
    return getattr(event_channel, "evtchn_" + op.name.removeprefix("EVTCHNOP_"))  # type: ignore[no-any-return]


def field_of(struct: type[Struct], name: str) -> tuple[np.dtype[Any], int]:
    """The type and the offset of a field."""
    fields = struct.dtype.fields
    assert fields is not None
    return fields[name][0], fields[name][1]


def filled(chance: random.Random, struct: type[Struct]) -> bytes:
    """Poison everywhere, small numbers in about half of the fields."""
    raw = bytearray([POISON]) * struct.sizeof
    for name in struct.dtype.names or ():
        if chance.random() < 0.6 and name not in ("status", "frame_list"):
            dtype, at = field_of(struct, name)
            raw[at : at + dtype.itemsize] = (
                chance.choice([0, 1, 2, 8, 0x7FF0])
                .to_bytes(8, "little")[: dtype.itemsize]
                .ljust(dtype.itemsize, b"\0")
            )
    return bytes(raw)


def outside(struct: type[Struct], outputs: tuple[str, ...], raw: bytes) -> bytes:
    """The bytes that the operation may not have changed."""
    kept = bytearray(raw)
    for name in outputs:
        dtype, at = field_of(struct, name)
        kept[at : at + dtype.itemsize] = bytes(dtype.itemsize)
    return bytes(kept)


def perform(guest: Guest, nr: int, args: tuple[int, ...], va: int, raw: bytes) -> tuple[int, bytes]:
    canary = bytes([POISON ^ 0xFF]) * 16
    guest.poke(va - 16, canary + raw + canary)
    result = guest.hypercall(nr, *args)
    seen = guest.loads(va - 16, len(raw) + 32)
    assert seen[:16] == seen[-16:] == canary, "written outside of the structure"
    assert result <= 0, f"a positive result, {result}"
    return int(result), seen[16:-16]


def probe(house: GrantingDomains, *, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    for ref in range(8, 12):
        house.dom1.offer(ref, chance.randrange(3), house.dom1.page(ref).mfn)
    for _ in range(rounds):
        guest = chance.choice(house.guests)
        va = guest.page(401).va
        if chance.random() < 0.6:
            op = chance.choice([op for op in GrantTableOp if op is not GrantTableOp.GNTTABOP_dump_table])
            struct = grant_struct(op)
            raw = filled(chance, struct)
            _, seen = perform(guest, Hypercall.grant_table_op, (op, va, 1), va, raw)
            outputs = GRANT_OUTPUTS.get(struct.__name__, ("status",))
            check_status(struct, seen, poison=bytes([POISON]) * 2)
        else:
            event = chance.choice([op for op in EventChannelOp if op in EVTCHNOPS])
            struct = event_struct(event)
            raw = filled(chance, struct)
            result, seen = perform(guest, Hypercall.event_channel_op, (event, va), va, raw)
            outputs = EVENT_OUTPUTS.get(struct.__name__, ()) if result == 0 else ()
        assert outside(struct, outputs, seen) == outside(struct, outputs, raw), (
            f"{struct.__name__} changed elsewhere"
        )


def check_status(struct: type[Struct], seen: bytes, *, poison: bytes) -> None:
    if "status" not in (struct.dtype.names or ()):
        return
    at = struct.offsetof("status")
    status = int.from_bytes(seen[at : at + 2], "little", signed=True)
    if seen[at : at + 2] != poison:  # EFAULT or EINVAL for the whole call leave it alone
        assert status in set(GrantStatus), f"{struct.__name__} has status {status}"


@pytest.mark.parametrize("seed", range(3))
def test_guests_read_back_nothing_but_outputs(seed: int) -> None:
    with granting_domains() as house:
        probe(house, rounds=250, seed=seed)
        assert house.machine.hv.counters["hypervisor bugs"] == 0


def test_every_batched_operation_declares_its_outputs() -> None:
    for op, batched in BATCHED.items():
        outputs = GRANT_OUTPUTS.get(batched.struct.__name__, ("status",))
        assert batched.outputs == outputs, GrantTableOp(op).name


def test_negative_control_writing_the_whole_structure_back_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """XSA-122: the record goes back as the hypervisor decoded it, padding and all."""
    real = grant_table_op.perform_one

    def whole(call: Call, op: Batched, va: VAddr) -> None:
        before = call.read(va, op.struct)
        real(call, op, va)
        call.write(va, before)

    monkeypatch.setattr(grant_table_op, "perform_one", whole)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house, rounds=250, seed=1)


def test_negative_control_a_positive_status_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-316."""
    real = grant_table_op.perform_one

    def positive(call: Call, op: Batched, va: VAddr) -> None:
        real(call, op, va)
        if op.outputs:
            call.copy_to_guest(va + op.struct.offsetof("status"), b"\x55\x00")

    monkeypatch.setattr(grant_table_op, "perform_one", positive)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house, rounds=250, seed=1)
