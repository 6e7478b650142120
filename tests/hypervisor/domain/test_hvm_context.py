"""The saved state of an HVM domain's vCPU: what is given back is what was taken, and what no CPU here can have is refused whole.

Negative control: without `check_cpu` in hvm.py's _read_cpu the altered registers below are taken, and these tests fail.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hypervisor.builder.hvm_contents import registers_at
from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.hvm_records import Record, records_of, strung
from hypervisor.domain.run_state import Run
from hypervisor.machine.hvm_reset import MCG_CAP, PAT_AFTER_RESET, vcpu_after_reset
from hypervisor.machine.local_apic import hidden_state, reset_registers
from hypervisor.public.arch_x86.hvm.save import (
    CPU_MSR_CODE,
    CPU_XSAVE_CODE,
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_HEADER,
    HVM_SAVE_CODE_LAPIC,
    HVM_SAVE_CODE_LAPIC_REGS,
    HVM_SAVE_CODE_MTRR,
    HVM_SAVE_CODE_PIC,
    HVM_SAVE_CODE_TSC_ADJUST,
    HVM_SAVE_CODE_VMCE_VCPU,
    hvm_hw_cpu,
    hvm_hw_lapic,
    hvm_hw_mtrr,
    hvm_one_msr,
    hvm_save_header,
    hvm_tsc_adjust,
    hvm_vmce_vcpu,
)
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_gethvmcontext,
    XEN_DOMCTL_gethvmcontext_partial,
    XEN_DOMCTL_sethvmcontext,
    xen_domctl,
    xen_domctl_hvmcontext,
    xen_domctl_hvmcontext_partial,
    xen_domctl_u,
)
from hypervisor.public.errno import Errno
from hypervisor.public.hvm.save import HVM_SAVE_CODE_END, hvm_save_descriptor
from hypervisor.public.xen import Hypercall
from hypervisor.public.xenoscope_hvm import xenoscope_hvm_msr_count, xenoscope_hvm_vcpu
from hypervisor.wire.messages import Effect
from tests.hypervisor.hvm_caller import HvmCaller, hvm_house
from tests.hypervisor.mm.caller import Caller

BUFFER = 0x200
ROOM = 4096 - BUFFER
ROUNDS = 100
ORDER = [
    *(HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_LAPIC, HVM_SAVE_CODE_LAPIC_REGS),
    *(HVM_SAVE_CODE_MTRR, HVM_SAVE_CODE_VMCE_VCPU, HVM_SAVE_CODE_TSC_ADJUST, CPU_MSR_CODE),
]


@dataclass
class House:
    """Dom0 and a paused HVM domain that has never run."""

    dom0: Caller
    guest: HvmCaller

    @property
    def domain(self) -> Domain:
        return self.guest.domain

    def domctl(self, cmd: int, **arm: object) -> int:
        op = xen_domctl(
            cmd=int(cmd),
            interface_version=XEN_DOMCTL_INTERFACE_VERSION,
            domain=self.domain.domid,
            u=xen_domctl_u(**arm),
        )
        return self.dom0.call(Hypercall.domctl, self.dom0.record(op))

    def answer(self) -> xen_domctl_u:
        u: xen_domctl_u = xen_domctl.unpack(self.dom0.get(0, xen_domctl.sizeof)).u
        return u

    def set(self, raw: bytes) -> int:
        state = xen_domctl_hvmcontext(size=len(raw), buffer=self.dom0.put(raw, BUFFER))
        return self.domctl(XEN_DOMCTL_sethvmcontext, hvmcontext=state)

    def get(self, size: int = ROOM) -> bytes | int:
        state = xen_domctl_hvmcontext(size=size, buffer=self.dom0.put(bytes(ROOM), BUFFER))
        result = self.domctl(XEN_DOMCTL_gethvmcontext, hvmcontext=state)
        return result or self.dom0.get(BUFFER, self.answer().hvmcontext.size)

    def get_one(self, typecode: int, instance: int = 0, size: int = ROOM) -> bytes | int:
        wanted = xen_domctl_hvmcontext_partial(
            type=typecode, instance=instance, bufsz=size, buffer=self.dom0.put(bytes(ROOM), BUFFER)
        )
        result = self.domctl(XEN_DOMCTL_gethvmcontext_partial, hvmcontext_partial=wanted)
        return result or self.dom0.get(BUFFER, self.answer().hvmcontext_partial.bufsz)


@pytest.fixture
def house() -> Iterator[House]:
    with hvm_house() as (dom0, guest):
        hv = dom0.machine.hv
        hv.run.domain_pause(guest.domain)
        guest.domain.tool_pauses = 1
        guest.vcpu.up = guest.vcpu.initialised = False
        yield House(dom0, guest)


def registers(**fields: int) -> hvm_hw_cpu:
    """A kernel in long mode, with other values in some fields."""
    cpu = registers_at(0x100000, 0x2000)
    cpu.cr0, cpu.cr3, cpu.cr4, cpu.msr_efer = 0x80050033, 0x5000, 0x6A0, 0xD01
    cpu.cs_sel, cpu.cs_arbytes, cpu.ss_sel = 0x10, 0xA9B, 0x18
    cpu.fs_base, cpu.gs_base, cpu.shadow_gs = 0x7FFF_0000_1000, 0xFFFF_8880_0000_0000, 5
    cpu.sysenter_cs, cpu.sysenter_esp, cpu.sysenter_eip, cpu.msr_tsc_aux = 1, 2, 3, 4
    cpu.fpu_regs, cpu.flags, cpu.tsc = bytes(range(256)) * 2, 1, 1 << 50
    for name, value in fields.items():
        setattr(cpu, name, value)
    return cpu


def record(typecode: int, content: bytes, instance: int = 0) -> Record:
    return Record(int(typecode), instance, content)


def msrs(*entries: tuple[int, int], count: int | None = None, reserved: int = 0) -> bytes:
    """The content of CPU_MSR."""
    head = xenoscope_hvm_msr_count(count=len(entries) if count is None else count)
    return head.pack() + b"".join(hvm_one_msr(index=n, _rsvd=reserved, val=v).pack() for n, v in entries)


def whole(**fields: int) -> list[Record]:
    """All that a vCPU can have, with other registers."""
    apic = bytearray(reset_registers(0))
    apic[0xF0:0xF4], apic[0x3E0] = b"\xff\x01\0\0", 0xB
    return [
        record(HVM_SAVE_CODE_CPU, registers(**fields).pack()),
        record(HVM_SAVE_CODE_LAPIC, hidden_state(0, bytes(apic)).pack()),
        record(HVM_SAVE_CODE_LAPIC_REGS, bytes(apic)),
        record(HVM_SAVE_CODE_MTRR, hvm_hw_mtrr(msr_pat_cr=0x0007010600070106).pack()),
        record(HVM_SAVE_CODE_VMCE_VCPU, hvm_vmce_vcpu(caps=MCG_CAP).pack()),
        record(HVM_SAVE_CODE_TSC_ADJUST, hvm_tsc_adjust().pack()),
        record(CPU_MSR_CODE, msrs((0x140, 1))),
    ]


def test_a_state_comes_back_as_it_was_given(house: House) -> None:
    state = strung(whole())
    assert house.set(state) == 0
    assert house.get() == state
    effects = {effect[0]: effect[1] for effect in house.guest.vcpu.take_effects() if len(effect) > 1}
    told = xenoscope_hvm_vcpu.unpack(effects[Effect.CONTEXT])
    assert told.cpu == registers()
    assert (told.pat, told.misc_features_enables) == (0x0007010600070106, 1)
    assert (house.guest.vcpu.up, house.guest.vcpu.initialised) == (True, True)


def test_registers_alone_are_completed_as_after_a_reset(house: House) -> None:
    assert house.set(strung(whole()[:1])) == 0
    got = house.get()
    assert isinstance(got, bytes)
    records = {one.typecode: one.content for one in records_of(got)}
    assert list(records) == ORDER[:-1]
    assert hvm_hw_mtrr.unpack(records[HVM_SAVE_CODE_MTRR]).msr_pat_cr == PAT_AFTER_RESET
    assert records[HVM_SAVE_CODE_LAPIC_REGS] == reset_registers(0)
    assert hvm_hw_lapic.unpack(records[HVM_SAVE_CODE_LAPIC]).disabled == 2


def test_the_tsc_goes_on_where_it_was(house: House) -> None:
    hv, mailbox = house.dom0.machine.hv, house.domain.mailbox
    assert house.set(strung(whole(tsc=1 << 60))) == 0
    assert 0 <= hv.clock.boot_ns + hv.now() + mailbox.tsc_offset - (1 << 60) < 10**9
    assert house.set(strung(whole(tsc=0))) == 0
    assert 0 <= hv.clock.boot_ns + hv.now() + mailbox.tsc_offset < 10**9


def test_a_vcpu_without_registers_is_down(house: House) -> None:
    assert house.set(strung(whole())) == 0
    assert house.set(strung(whole()[1:])) == 0
    assert not house.guest.vcpu.up
    got = house.get()
    assert isinstance(got, bytes)
    assert [one.typecode for one in records_of(got)] == ORDER[1:]


def test_the_size_is_asked_for_without_a_buffer(house: House) -> None:
    state = strung(whole())
    assert house.set(state) == 0
    assert house.domctl(XEN_DOMCTL_gethvmcontext, hvmcontext=xen_domctl_hvmcontext()) == 0
    size = house.answer().hvmcontext.size
    assert size == len(state)
    assert house.get(size) == state
    assert house.get(size - 1) == -Errno.ENOSPC


@pytest.mark.parametrize("which", range(len(ORDER)))
def test_one_record_is_given_alone(house: House, which: int) -> None:
    one = whole()[which]
    assert house.set(strung(whole())) == 0
    assert house.get_one(one.typecode) == one.content
    assert house.get_one(one.typecode, size=len(one.content) - 1) == -Errno.ENOBUFS
    asked = xen_domctl_hvmcontext_partial(type=one.typecode)
    assert house.domctl(XEN_DOMCTL_gethvmcontext_partial, hvmcontext_partial=asked) == 0
    assert house.answer().hvmcontext_partial.bufsz == len(one.content)


def test_a_record_that_there_is_not(house: House) -> None:
    assert house.get_one(HVM_SAVE_CODE_CPU) == -Errno.ENODATA
    assert house.get_one(CPU_MSR_CODE) == -Errno.ENODATA
    assert house.get_one(HVM_SAVE_CODE_CPU, 1) == -Errno.ENOENT
    assert house.get_one(HVM_SAVE_CODE_PIC) == -Errno.EINVAL
    assert house.get_one(0xFFFF_FFFF) == -Errno.EINVAL


def test_a_domain_that_runs_gives_nothing_and_takes_nothing(house: House) -> None:
    house.domain.tool_pauses = 0
    house.dom0.machine.hv.run.domain_unpause(house.domain)
    assert house.get() == -Errno.EINVAL
    assert house.set(strung(whole())) == -Errno.EINVAL


@pytest.mark.parametrize(("size", "rax"), [(8, -5 & (1 << 64) - 1), (4, -5 & 0xFFFF_FFFF), (0, 7)])
def test_the_result_of_a_hypercall_that_is_waited_for_is_in_rax(house: House, size: int, rax: int) -> None:
    """HLT waits in the hypervisor too, and has no result."""
    vcpu = house.guest.vcpu
    state = vcpu_after_reset(0, registers(rax=7))
    state.result_size = size
    vcpu.context, vcpu.initialised, vcpu.up = state.pack(), True, True
    run = vcpu.run
    run.state, run.nr, run.result, run.saved = Run.ANSWERED, int(Hypercall.sched_op), -5, True
    got = house.get_one(HVM_SAVE_CODE_CPU)
    assert isinstance(got, bytes)
    assert hvm_hw_cpu.unpack(got) == registers(rax=rax)


HEADER = hvm_save_descriptor(typecode=HVM_SAVE_CODE_HEADER, length=24).pack()


def header(**fields: int) -> bytes:
    """A state whose header has other values in some fields."""
    state = bytearray(strung(whole()))
    head = hvm_save_header.unpack(state, 8)
    for name, value in fields.items():
        setattr(head, name, value)
    state[8:32] = head.pack()
    return bytes(state)


def replaced(typecode: int, content: bytes, instance: int = 0) -> bytes:
    """A state with another record of this type, or with one more."""
    others = [one for one in whole() if one.typecode != typecode]
    return strung([*others, record(typecode, content, instance)])


def altered(**fields: int) -> bytes:
    """A state with these registers."""
    return strung(whole(**fields))


APIC = hidden_state(0, bytes(reset_registers(0)))
CONTENT = {one.typecode: one.content for one in whole()}
MANY = [record(HVM_SAVE_CODE_TSC_ADJUST, bytes(8))] * 32
NO_END = strung(whole())[: -hvm_save_descriptor.sizeof]


@pytest.mark.parametrize(
    ("raw", "errno"),
    [
        (b"", Errno.ENODATA),
        (NO_END, Errno.ENODATA),
        (NO_END[:-1], Errno.ENODATA),
        (strung([])[32:], Errno.ENODATA),
        (strung(whole())[32:], Errno.ENODATA),
        (strung(whole() + MANY), Errno.EINVAL),
        (HEADER[:4] + (23).to_bytes(4, "little") + strung([])[8:31] + strung([])[32:], Errno.ENODATA),
        (NO_END + hvm_save_descriptor(typecode=2, length=0xFFFF_FFFF).pack(), Errno.ENODATA),
        (header(magic=5), Errno.EINVAL),
        (header(version=2), Errno.EINVAL),
        (header(gtsc_khz=2_400_000), Errno.EINVAL),
        *((replaced(n, CONTENT[n][:-8]), Errno.EINVAL) for n in (2, 14, 18, 19)),
        *((replaced(n, CONTENT[n][:-8]), Errno.ENODATA) for n in (5, 6)),
        *((replaced(n, CONTENT[n] + bytes(8)), Errno.EINVAL) for n in (2, 14, 18, 19)),
        *((replaced(n, CONTENT[n], 1), Errno.EINVAL) for n in ORDER),
        *((replaced(n, bytes(8)), Errno.ENODEV) for n in (3, 4, 7, 8, 9, 10, 11, 12, 13)),
        *((replaced(n, bytes(8)), Errno.EINVAL) for n in (15, 17, 21, 128, 0xFFFF, HVM_SAVE_CODE_HEADER)),
        (replaced(CPU_XSAVE_CODE, bytes(600)), Errno.EOPNOTSUPP),
        (replaced(CPU_MSR_CODE, b""), Errno.EINVAL),
        (replaced(CPU_MSR_CODE, msrs((0x140, 1), count=2)), Errno.EOPNOTSUPP),
        (replaced(CPU_MSR_CODE, msrs((0x140, 1), reserved=1)), Errno.EOPNOTSUPP),
        (replaced(CPU_MSR_CODE, msrs((0x140, 2))), Errno.ENXIO),
        (replaced(CPU_MSR_CODE, msrs((0x48, 1))), Errno.ENXIO),
        (replaced(HVM_SAVE_CODE_LAPIC, hvm_hw_lapic(apic_base_msr=0xFEE00D00).pack()), Errno.EINVAL),
        (replaced(HVM_SAVE_CODE_LAPIC, hvm_hw_lapic(apic_base_msr=APIC.apic_base_msr).pack()), Errno.EINVAL),
        (replaced(HVM_SAVE_CODE_MTRR, hvm_hw_mtrr(msr_pat_cr=2).pack()), Errno.EINVAL),
        (replaced(HVM_SAVE_CODE_MTRR, hvm_hw_mtrr(msr_mtrr_cap=9).pack()), Errno.EINVAL),
        (replaced(HVM_SAVE_CODE_MTRR, hvm_hw_mtrr(msr_mtrr_def_type=6).pack()), Errno.EINVAL),
        (replaced(HVM_SAVE_CODE_VMCE_VCPU, hvm_vmce_vcpu().pack()), Errno.EINVAL),
        (replaced(HVM_SAVE_CODE_TSC_ADJUST, hvm_tsc_adjust(tsc_adjust=1).pack()), Errno.EINVAL),
    ],
)
def test_a_state_that_is_none_changes_nothing(house: House, raw: bytes, errno: Errno) -> None:
    before = strung(whole(rip=0x1234))
    assert house.set(before) == 0
    assert house.set(raw) == -errno
    assert house.get() == before
    assert house.domain.life is Life.ALIVE


@pytest.mark.parametrize(
    "fields",
    [
        {"cr0": 0x80050032},  # paging without protection
        {"cr0": 0x80050023},  # ET
        {"cr0": 1 << 32 | 0x80050033},
        {"cr0": 0xA0050033},  # NW without CD
        {"cr0": 0x33},  # LMA without paging
        {"cr3": 1 << 36},
        {"cr4": 0x680},  # long mode without PAE
        {"cr4": 1 << 20 | 0x6A0},
        {"msr_efer": 0x1D01},
        {"msr_efer": 0x901},  # LME and paging without LMA
        {"msr_efer": 0xC01},
        {"dr6": 1 << 32},
        {"dr7": 1 << 32},
        {"msr_tsc_aux": 1 << 32},
        {"sysenter_cs": 1 << 32},
        {"flags": 2},
        {"pad0": 1},
        {"pending_event": 1 << 31 | 0x20},
        {"cs_arbytes": 0xE9B},  # of 64 and of 32 bits
        {"cs_arbytes": 0xA1B},  # not present
        {"cs_arbytes": 0xA9A},  # not accessed
        {"cs_arbytes": 0xAFB},  # ring 3 on a stack of ring 0
        {"cs_arbytes": 0x1A9B},
        {"cs_base": 1 << 32},
        {"cs_sel": 0x10000},
        {"ss_arbytes": 0xC91},  # not writable
        {"ss_arbytes": 0xC9B},  # code
        {"ds_arbytes": 0xC99},  # code that cannot be read
        {"es_base": 1 << 40},
        {"gs_arbytes": 0xC93, "gs_base": 1 << 47},
        {"tr_arbytes": 0x89},  # not busy
        {"tr_arbytes": 0},
        {"tr_sel": 0x34},  # of the LDT
        {"tr_base": 1 << 60},
        {"ldtr_arbytes": 0x8B},
        {"gdtr_limit": 0x10000},
        {"idtr_base": 1 << 47},
    ],
    ids=str,
)
def test_registers_that_no_cpu_has_change_nothing(house: House, fields: dict[str, int]) -> None:
    before = strung(whole())
    assert house.set(before) == 0
    assert house.set(altered(**fields)) == -Errno.EINVAL
    assert house.get() == before


def test_what_stands_behind_the_end_is_not_looked_at(house: House) -> None:
    state = strung(whole())
    assert house.set(state + b"anything") == 0
    assert house.get() == state


def test_end_is_a_record_without_content() -> None:
    assert strung([])[-8:] == hvm_save_descriptor(typecode=HVM_SAVE_CODE_END).pack()


def test_random_bytes_are_taken_or_refused_and_nothing_else(house: House) -> None:
    """What was taken comes back, but for what Xen adds; never does the hypervisor fail over it."""
    hv, chance = house.dom0.machine.hv, random.Random(5)
    state = strung(whole())
    heads = [0, 32, 32 + 8 + hvm_hw_cpu.sizeof]
    taken = 0
    for _ in range(ROUNDS):
        raw = bytearray(state[: chance.choice((len(state), len(state), 1 + chance.randrange(len(state))))])
        for _ in range(chance.choice((1, 1, 2, 30))):
            at = chance.choice((chance.randrange(len(state)), *heads)) + chance.randrange(8)
            raw[min(at, len(raw) - 1)] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
        result = house.set(bytes(raw))
        assert result <= 0
        taken += result == 0
        got = house.get()
        assert isinstance(got, bytes)
        assert house.set(got) == 0
        assert house.get() == got
    assert 0 < taken < ROUNDS
    assert hv.counters["hypervisor bugs"] == 0
