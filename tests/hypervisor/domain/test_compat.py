"""How a domain becomes a 32-bit PV guest, and what of it then has 32 bits (Xen arch/x86/pv/domain.c, arch/x86/domain.c)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypervisor.domain.context import check_context
from hypervisor.domain.domain import Domain, Kind
from hypervisor.domain.lifecycle import create_domain
from hypervisor.hypercalls.hypercall_page import HYPERCALL_PAGES
from hypervisor.public.abi import COMPAT, NATIVE
from hypervisor.public.compat import compat_vcpu_guest_context
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_get_address_size,
    XEN_DOMCTL_set_address_size,
    xen_domctl,
    xen_domctl_u,
)
from hypervisor.public.domctl_domain import xen_domctl_address_size
from hypervisor.public.errno import Errno
from hypervisor.public.xen import Hypercall, shared_info
from hypervisor.wire.mailbox import Engine
from tests.inprocess import Built, InProcess, hypervisor_in_process


class House:
    """Dom0, and domains that it makes."""

    def __init__(self, machine: InProcess) -> None:
        self.machine, self.hv = machine, machine.hv
        self.dom0: Built = machine.build(privileged=True)

    def create(self, engine: Engine = Engine.X86_64) -> Domain:
        return create_domain(self.hv, self.hv.free_domid(), max_pages=64, engine=engine)

    def domctl(self, domain: Domain, cmd: int, size: int) -> tuple[int | object, int]:
        """The answer, and the size in it."""
        op = xen_domctl(
            cmd=int(cmd),
            interface_version=XEN_DOMCTL_INTERFACE_VERSION,
            domain=domain.domid,
            u=xen_domctl_u(address_size=xen_domctl_address_size(size=size)),
        )
        at, memory = self.dom0.scratch, self.hv.mmu.guest
        memory.copy_to_guest(self.dom0.vcpu.mem, at, op.pack())
        result = self.machine.hypercall(self.dom0.vcpu, Hypercall.domctl, at)
        told = xen_domctl.unpack(memory.copy_from_guest(self.dom0.vcpu.mem, at, xen_domctl.sizeof))
        return result, told.u.address_size.size

    def set(self, domain: Domain, size: int) -> int | object:
        return self.domctl(domain, XEN_DOMCTL_set_address_size, size)[0]


@pytest.fixture
def house() -> Iterator[House]:
    with hypervisor_in_process() as machine:
        yield House(machine)


def test_a_domain_without_memory_becomes_a_32_bit_guest(house: House) -> None:
    domain = house.create()
    assert house.domctl(domain, XEN_DOMCTL_get_address_size, 0) == (0, 64)
    assert house.set(domain, 32) == 0
    assert house.set(domain, 32) == 0
    assert house.domctl(domain, XEN_DOMCTL_get_address_size, 0) == (0, 32)
    assert (domain.kind, domain.abi, domain.mailbox.engine) == (Kind.PV32, COMPAT, Engine.X86_32)
    assert house.set(domain, 64) == -Errno.EINVAL


def test_nothing_else_does(house: House) -> None:
    with_memory = house.create()
    house.hv.mmu.allocator.alloc_page(with_memory.mem)
    assert house.set(with_memory, 32) == -Errno.EACCES
    assert house.set(house.create(Engine.X86_64_NESTED), 32) == -Errno.EACCES
    assert house.set(house.create(Engine.PYTHON), 32) == -Errno.EOPNOTSUPP
    assert house.set(house.create(), 16) == -Errno.EINVAL
    assert house.set(house.create(), 64) == 0


def test_the_shared_page_is_laid_out_anew(house: House) -> None:
    """With the wall clock where a 32-bit guest reads it, and every vCPU's events masked."""
    domain = house.create()
    native, compat = (abi.layout(shared_info) for abi in (NATIVE, COMPAT))

    def word(at: int) -> bytes:
        return bytes(house.hv.memory.read((domain.shared_info << 12) + at, 4))

    seconds = word(native.offsetof("wc_sec"))
    assert house.set(domain, 32) == 0
    assert word(compat.offsetof("wc_sec")) == seconds
    assert not any(word(native.offsetof("wc_sec")))
    assert word(0)[1] == 1


def test_a_domain_that_became_one_dies_without_a_trace(house: House) -> None:
    domain = house.create()
    used = house.hv.mmu.allocator.used_frames
    assert house.set(domain, 32) == 0
    assert house.hv.mmu.allocator.used_frames == used + len(domain.vcpus)
    house.machine.destroy(domain)
    assert domain.domid not in house.hv.domains


def test_selectors_get_the_ring_of_the_guests_kernel_at_least(house: House) -> None:
    domain = house.create()
    assert house.set(domain, 32) == 0
    context = compat_vcpu_guest_context(
        kernel_ss=0xE020, event_callback_cs=0xE018, failsafe_callback_cs=0xE02B
    )
    regs = context.user_regs
    regs.cs, regs.ss, regs.eflags = 0xE018, 0xE033, 1 << 17
    context.user_regs = regs
    checked = check_context(domain, context.pack())
    assert isinstance(checked, compat_vcpu_guest_context)
    assert (checked.user_regs.cs, checked.user_regs.ss) == (0xE019, 0xE033)
    assert (checked.kernel_ss, checked.event_callback_cs, checked.failsafe_callback_cs) == (
        0xE021,
        0xE019,
        0xE02B,
    )
    assert checked.user_regs.eflags == 1 << 9 | 2


def test_hypercalls_of_both_widths_have_their_page() -> None:
    wide, narrow = HYPERCALL_PAGES[Kind.PV64](), HYPERCALL_PAGES[Kind.PV32]()
    assert len(wide) == len(narrow) == 4096
    assert narrow[32 * 17 :][:8] == b"\xb8\x11\0\0\0\xcd\x82\xc3"
    assert narrow[32 * 23 :][:8] == b"\x50\xb8\x17\0\0\0\xcd\x82"
    assert wide[32 * 17 :][:15] == b"\x51\x41\x53\xb8\x11\0\0\0\x0f\x05\x41\x5b\x59\xc3\xcc"
