"""XSA-279: a flush of an address that nobody had checked.

The flaw. update_va_mapping flushed the address it was given also when the update had been refused, and then nobody
had looked at the address: with a non-canonical one the CPU faulted in the hypervisor.

The probe. Every flush mode with non-canonical, hypervisor and unmapped addresses, refused values and bad vCPU masks:
the CPU is told nothing. The same for the flushes of mmuext_op. Negative control: a handler that flushes first tells
the CPU of the bad address.
"""

import pytest

from hypervisor.hypercalls import update_va_mapping
from hypervisor.machine.paging import pte
from hypervisor.public.errno import XenError
from hypervisor.public.xen import UVMF_ALL, UVMF_INVLPG, UVMF_TLB_FLUSH, Hypercall
from hypervisor.wire.messages import Effect
from tests.hypervisor.mm.caller import Caller, callers
from tests.hypervisor.mm.small_machine import RW

ADDRESSES = [
    1 << 47,
    0x8000_0000_0000_0000,
    0xDEAD_BEEF_DEAD_B000,
    0xFFFF_8000_0000_0000,
    0xFFFF_87FF_FFFF_F000,
]
MODES = [
    int(kind) | int(where)
    for kind in (UVMF_TLB_FLUSH, UVMF_INVLPG)
    for where in (0, UVMF_ALL, 1 << 46, 1 << 63)
]


def flushed(guest: Caller) -> list[list[object]]:
    """What the CPU was told since the last call of this."""
    told = guest.machine.processes.effects[guest.built.vcpu]
    return [e for e in told if e[0] in (Effect.FLUSH_TLB, Effect.INVLPG)]


def refused_updates(guest: Caller) -> list[list[object]]:
    guest.call(Hypercall.update_va_mapping, guest.scratch + 0x1000, 0, 0)
    l1, _ = guest.l1_of(guest.scratch)
    told: list[list[object]] = []
    for mode in MODES:
        for va in [*ADDRESSES, guest.scratch]:
            assert guest.call(Hypercall.update_va_mapping, va, pte(l1, RW), mode) < 0
            told += flushed(guest)
    return told


def test_a_refused_update_flushes_nothing() -> None:
    with callers() as (_, guest):
        assert refused_updates(guest) == []


def test_a_handler_that_flushes_all_the_same_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = update_va_mapping.update

    def careless(call, va, value, flags, pg_owner):  # type: ignore[no-untyped-def]
        try:
            return original(call, va, value, flags, pg_owner)
        except XenError:
            call.vcpu.mem.cpu.invlpg(va)
            raise

    monkeypatch.setattr(update_va_mapping, "update", careless)
    with callers() as (_, guest):
        assert refused_updates(guest)
