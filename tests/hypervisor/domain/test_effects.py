"""What waits for a vCPU is bounded, and does to it what all that was asked would have done, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.domain.effects import FLUSH_CODE_LIMIT, INVLPG_LIMIT, Effects
from hypervisor.hypercalls import multicall
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.public.errno import Errno
from hypervisor.public.xen import MMUEXT_INVLPG_LOCAL, Hypercall, mmuext_op, mmuext_op_arg1, multicall_entry
from hypervisor.wire.messages import Effect
from tests.hypervisor.mm.caller import callers

PAGES = range(40)
FRAMES = range(0, 100 * EXTENT_FRAMES, EXTENT_FRAMES // 2)


@dataclass
class Cpu:
    """What effects do. `stale` and `code` hold what was remembered before and has not been forgotten since."""

    registers: dict[object, object] = field(default_factory=dict)
    masked: set[int] = field(default_factory=lambda: set(range(4)))
    pending: set[int] = field(default_factory=lambda: set(range(4)))
    traps: dict[int, list[int]] = field(default_factory=dict)
    stale: set[int] = field(default_factory=lambda: set(PAGES))
    code: set[int] = field(default_factory=lambda: set(FRAMES))
    seen: list[Any] = field(default_factory=list)

    def state(self) -> tuple[Any, ...]:
        return dict(self.registers), set(self.masked), set(self.pending), dict(self.traps)

    def apply(self, kind: int, *fields: Any) -> None:
        match kind:
            case Effect.INVLPG:
                self.stale.discard(fields[0] >> 12)
            case Effect.FLUSH_TLB:
                self.stale.clear()
            case Effect.FLUSH_CODE:
                self.code -= set(range(fields[0], fields[0] + fields[1]))
            case Effect.EVTCHN_UNMASK:
                self.masked.discard(fields[0])
            case Effect.EVTCHN_CLEAR:
                self.pending.discard(fields[0])
                self.registers["port", fields[0]] = 0
            case Effect.TRAP_TABLE:
                if not fields[0]:
                    self.traps.clear()
                self.traps |= {row[0]: row for row in fields[0]}
            case Effect.CALLBACK | Effect.VCPU_INFO:
                self.registers[kind, fields[0]] = fields[1:]
            case Effect.LOCAL:
                self.seen.append((fields, self.state(), set(self.stale), set(self.code)))
            case _:
                self.registers[kind] = fields


def record(kind: Effect, *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.tuples(st.just(kind), *fields).map(list)


SMALL = st.integers(0, 3)
ROWS = st.lists(st.tuples(SMALL, SMALL, SMALL, SMALL).map(list), max_size=4)
RECORDS = st.one_of(
    record(Effect.INVLPG, st.sampled_from(PAGES).map(lambda page: page << 12)),
    record(Effect.FLUSH_TLB),
    record(Effect.FLUSH_CODE, st.sampled_from(FRAMES), st.just(1)),
    *(
        record(kind, SMALL)
        for kind in (Effect.EVTCHN_UNMASK, Effect.EVTCHN_CLEAR, Effect.LOAD_CR3, Effect.LOCAL)
    ),
    *(record(kind, SMALL) for kind in (Effect.LOAD_USER_CR3, Effect.VM_ASSIST, Effect.CONTEXT)),
    *(record(kind, SMALL, SMALL) for kind in (Effect.GDT, Effect.LDT)),
    record(Effect.CALLBACK, SMALL, SMALL, SMALL),
    record(Effect.VCPU_INFO, SMALL, SMALL, SMALL),
    record(Effect.TRAP_TABLE, ROWS),
)


@given(st.lists(RECORDS, max_size=120))
def test_what_is_sent_does_what_was_asked(asked: list[list[Any]]) -> None:
    effects, plain, sent = Effects(), Cpu(), Cpu()
    effects.extend([list(r) for r in asked])
    for r in asked:
        plain.apply(*r)
    for r in effects.take():
        sent.apply(*r)
    assert len(effects) == 0
    assert sent.state() == plain.state()
    assert sent.stale <= plain.stale
    assert sent.code <= plain.code
    for mine, wanted in zip(sent.seen, plain.seen, strict=True):
        assert mine[:2] == wanted[:2]
        assert mine[2] <= wanted[2]
        assert mine[3] <= wanted[3]


def test_a_vcpu_that_is_never_answered_holds_few_effects() -> None:
    """Negative control: a list, which it was, holds every one of them."""
    effects, memory = Effects(), 64 * EXTENT_FRAMES
    for i in range(20_000):
        effects.append([Effect.INVLPG, i << 12])
        effects.append([Effect.FLUSH_CODE, i % memory, 1])
        effects.append([Effect.EVTCHN_CLEAR, i % 16])
        effects.append([Effect.TRAP_TABLE, [[i % 256, 0, 0, i]]])
        for kind in (Effect.LOAD_CR3, Effect.LOAD_USER_CR3, Effect.VM_ASSIST):
            effects.append([kind, i])
        effects.set_context(b"%d" % i)
        assert len(effects) <= INVLPG_LIMIT + FLUSH_CODE_LIMIT + 64 + 16 + 6


def test_registers_come_after_the_first_mappings_and_before_what_they_need() -> None:
    effects = Effects()
    effects.append([Effect.MAP_EXTENT, 1, 2048, 1024, 0])
    effects.append([Effect.LOAD_CR3, 5])
    effects.append([Effect.MAP_EXTENT, 1, 4096, 1024, 1024])
    effects.set_context(b"first")
    effects.set_context(b"second")
    assert [r[0] for r in effects] == [Effect.MAP_EXTENT, Effect.CONTEXT, Effect.LOAD_CR3, Effect.MAP_EXTENT]
    assert [Effect.CONTEXT, b"second"] in list(effects)


def test_one_hypercall_that_forgets_many_pages_is_answered_by_one_flush() -> None:
    """Negative control: a list holds one effect for each page; half a million of them were a reply of 58 MB."""
    with callers() as (_, guest):
        pages = [
            mmuext_op(cmd=int(MMUEXT_INVLPG_LOCAL), arg1=mmuext_op_arg1(linear_addr=page << 12))
            for page in range(150)
        ]
        assert guest.mmuext_op(*pages) == (0, 150)
        told = guest.machine.processes.effects[guest.built.vcpu]
        assert [record[0] for record in told].count(Effect.FLUSH_TLB) == 1
        assert len(told) <= INVLPG_LIMIT


def test_a_multicall_gathers_no_more_effects_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that the process performs itself are sent together, at the end; those beyond the limit are refused."""
    monkeypatch.setattr(multicall, "MAX_EFFECTS", 8)
    with callers() as (_, guest):
        entry = multicall_entry(op=int(Hypercall.stack_switch), args=(0, 0, 0, 0, 0, 0))
        at = guest.put(entry.pack() * 12)
        assert (
            guest.call(Hypercall.xen_version, 0) > 0
        )  # the effects of the domain's making go with its answer
        assert guest.call(Hypercall.multicall, at, 12) == 0
        told = guest.machine.processes.effects[guest.built.vcpu]
        assert len(told) <= 8
        results = guest.read_numbers(12 * 8)[1::8]
        assert results[-4:] == [-Errno.E2BIG & (1 << 64) - 1] * 4
