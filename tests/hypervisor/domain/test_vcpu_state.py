"""What a toolstack that moves a domain gets and sets beside vcpu_guest_context: entry points, XSAVE, MSRs, TSC, types of frames.

Source: Xen arch/x86/domctl.c, arch/x86/time.c (tsc_get_info, tsc_set_info).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hypervisor.public.callback import (
    CALLBACKF_mask_events,
    CALLBACKOP_register,
    CALLBACKTYPE_syscall32,
    CALLBACKTYPE_sysenter,
    callback_register,
)
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_PFINFO_L1TAB,
    Domctl,
    xen_domctl,
    xen_domctl_getpageframeinfo3,
    xen_domctl_u,
)
from hypervisor.public.domctl_vcpu import (
    xen_domctl_ext_vcpucontext,
    xen_domctl_tsc_info,
    xen_domctl_vcpu_msrs,
    xen_domctl_vcpuextstate,
)
from hypervisor.public.errno import Errno
from hypervisor.public.types import VAddr
from hypervisor.public.xen import (
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_UNPIN_TABLE,
    Hypercall,
    mmuext_op,
    mmuext_op_arg1,
)
from hypervisor.wire.messages import Effect
from tests.inprocess import Built, InProcess, hypervisor_in_process

ENTRY = 0xFFFF_FFFF_8100_0000
NOT_CANONICAL = 1 << 60


class House:
    """Dom0 and a guest, which is paused."""

    def __init__(self, machine: InProcess) -> None:
        self.machine = machine
        self.hv = machine.hv
        self.dom0 = machine.build(privileged=True)
        self.guest = machine.build(pages=1536)
        assert self.domctl(Domctl.XEN_DOMCTL_pausedomain)[0] == 0

    def put(self, caller: Built, raw: bytes, offset: int = 0) -> VAddr:
        at = VAddr(caller.scratch + offset)
        self.hv.mmu.guest.copy_to_guest(caller.vcpu.mem, at, raw)
        return at

    def domctl(self, cmd: Domctl, arguments: xen_domctl_u | None = None) -> tuple[object, xen_domctl_u]:
        op = xen_domctl(
            cmd=int(cmd),
            interface_version=XEN_DOMCTL_INTERFACE_VERSION,
            domain=self.guest.domain.domid,
            u=arguments or xen_domctl_u(),
        )
        at = self.put(self.dom0, op.pack())
        result = self.machine.hypercall(self.dom0.vcpu, Hypercall.domctl, at)
        raw = self.hv.mmu.guest.copy_from_guest(self.dom0.vcpu.mem, at, xen_domctl.sizeof)
        return result, xen_domctl.unpack(raw).u

    def registers(self, kind: int, address: int, flags: int) -> None:
        register = callback_register(type=kind, flags=flags, address=address)
        at = self.put(self.guest, register.pack())
        vcpu = self.guest.vcpu
        assert self.machine.hypercall(vcpu, Hypercall.callback_op, int(CALLBACKOP_register), at) == 0

    def extended(self) -> xen_domctl_ext_vcpucontext:
        asked = xen_domctl_u(ext_vcpucontext=xen_domctl_ext_vcpucontext(vcpu=0))
        result, told = self.domctl(Domctl.XEN_DOMCTL_get_ext_vcpucontext, asked)
        assert result == 0
        context: xen_domctl_ext_vcpucontext = told.ext_vcpucontext
        return context

    def sets(self, **fields: int) -> object:
        size = fields.pop("size", xen_domctl_ext_vcpucontext.sizeof)
        given = xen_domctl_ext_vcpucontext(size=size, **fields)
        return self.domctl(Domctl.XEN_DOMCTL_set_ext_vcpucontext, xen_domctl_u(ext_vcpucontext=given))[0]


@pytest.fixture
def house() -> Iterator[House]:
    with hypervisor_in_process() as machine:
        yield House(machine)


def test_entry_points_that_a_guest_registered_are_told(house: House) -> None:
    assert house.extended().size == xen_domctl_ext_vcpucontext.sizeof
    assert house.domctl(Domctl.XEN_DOMCTL_unpausedomain)[0] == 0
    house.registers(int(CALLBACKTYPE_syscall32), ENTRY, int(CALLBACKF_mask_events))
    house.registers(int(CALLBACKTYPE_sysenter), ENTRY + 16, 0)
    told = house.extended()
    assert (told.syscall32_callback_eip, told.syscall32_disables_events) == (ENTRY, 1)
    assert (told.sysenter_callback_eip, told.sysenter_disables_events) == (ENTRY + 16, 0)


def test_entry_points_that_are_set_reach_the_process(house: House) -> None:
    assert house.sets(syscall32_callback_eip=ENTRY, syscall32_disables_events=1) == 0
    masks = int(CALLBACKF_mask_events)
    assert [Effect.CALLBACK, int(CALLBACKTYPE_syscall32), ENTRY, masks] in list(house.guest.vcpu.effects)
    assert house.extended().syscall32_callback_eip == ENTRY


def test_entry_points_that_cannot_be_are_refused_as_a_whole(house: House) -> None:
    assert house.sets(syscall32_callback_eip=ENTRY, sysenter_callback_eip=NOT_CANONICAL) == -Errno.EINVAL
    assert house.sets(syscall32_callback_eip=ENTRY, size=8) == -Errno.EINVAL
    assert house.sets(syscall32_callback_eip=ENTRY, vcpu=1) == -Errno.EINVAL
    assert house.extended().syscall32_callback_eip == 0
    assert house.domctl(Domctl.XEN_DOMCTL_unpausedomain)[0] == 0
    assert house.sets(syscall32_callback_eip=ENTRY) == -Errno.EINVAL


def test_there_is_no_xsave_and_there_are_no_msrs(house: House) -> None:
    asked = xen_domctl_u(vcpuextstate=xen_domctl_vcpuextstate(vcpu=0, size=100))
    result, told = house.domctl(Domctl.XEN_DOMCTL_getvcpuextstate, asked)
    assert (result, told.vcpuextstate.size, told.vcpuextstate.xfeature_mask) == (0, 0, 0)
    assert house.domctl(Domctl.XEN_DOMCTL_setvcpuextstate, asked)[0] == -Errno.EOPNOTSUPP
    asked = xen_domctl_u(vcpu_msrs=xen_domctl_vcpu_msrs(vcpu=0, msr_count=9))
    result, told = house.domctl(Domctl.XEN_DOMCTL_get_vcpu_msrs, asked)
    assert (result, told.vcpu_msrs.msr_count) == (0, 0)
    assert house.domctl(Domctl.XEN_DOMCTL_set_vcpu_msrs, asked)[0] == -Errno.EINVAL
    asked = xen_domctl_u(vcpu_msrs=xen_domctl_vcpu_msrs(vcpu=0))
    assert house.domctl(Domctl.XEN_DOMCTL_set_vcpu_msrs, asked)[0] == 0


def test_the_tsc_goes_on_from_what_it_is_told(house: House) -> None:
    house.guest.domain.vcpus[0].run.seq = 0  # it has not run
    for elapsed in (10**9, (1 << 64) - 10**9):
        given = xen_domctl_u(tsc_info=xen_domctl_tsc_info(gtsc_khz=1_000_000, elapsed_nsec=elapsed))
        assert house.domctl(Domctl.XEN_DOMCTL_settscinfo, given)[0] == 0
        now = house.hv.clock.boot_ns + house.hv.now()
        assert 0 <= (now + house.guest.domain.mailbox.tsc_offset - elapsed) % (1 << 64) < 10 * 10**9
        told = house.domctl(Domctl.XEN_DOMCTL_gettscinfo)[1].tsc_info
        assert 0 <= (told.elapsed_nsec - elapsed) % (1 << 64) < 10 * 10**9
        assert told.gtsc_khz == 1_000_000


def test_a_tsc_of_another_rate_or_of_a_domain_that_runs_is_refused(house: House) -> None:
    given = xen_domctl_u(tsc_info=xen_domctl_tsc_info(gtsc_khz=2_400_000, elapsed_nsec=5))
    assert house.domctl(Domctl.XEN_DOMCTL_settscinfo, given)[0] == -Errno.EOPNOTSUPP
    house.guest.domain.vcpus[0].run.seq = 2
    given = xen_domctl_u(tsc_info=xen_domctl_tsc_info(gtsc_khz=1_000_000, elapsed_nsec=5))
    assert house.domctl(Domctl.XEN_DOMCTL_settscinfo, given)[0] == -Errno.EOPNOTSUPP
    assert house.guest.domain.mailbox.tsc_offset == 0


def test_the_context_of_a_pv_vcpu_names_its_shared_page() -> None:
    with hypervisor_in_process() as machine:
        built = machine.build()
        effects = machine.processes.effects.get(built.vcpu, list(built.vcpu.effects))
        (context,) = (effect for effect in effects if effect[0] == Effect.CONTEXT)
        assert context[2] == built.domain.shared_info


def test_a_frame_that_is_a_table_no_more_is_none(house: House) -> None:
    """Its type stays written down at a count of 0, as Xen's does; a page that is not used as a table is saved as it is."""
    guest = house.guest
    frame = int(guest.p2m[guest.layout.nr_pages - 1])
    house.machine.memory.page(frame)[:] = 0

    def info() -> int:
        at = house.put(house.dom0, np.array([frame], "<u8").tobytes(), 2048)
        asked = xen_domctl_u(getpageframeinfo3=xen_domctl_getpageframeinfo3(num=1, array=at))
        assert house.domctl(Domctl.XEN_DOMCTL_getpageframeinfo3, asked)[0] == 0
        return int.from_bytes(house.hv.mmu.guest.copy_from_guest(house.dom0.vcpu.mem, at, 8), "little")

    def mmuext(cmd: int) -> None:
        at = house.put(house.dom0, mmuext_op(cmd=int(cmd), arg1=mmuext_op_arg1(mfn=frame)).pack())
        domid = guest.domain.domid
        assert house.machine.hypercall(house.dom0.vcpu, Hypercall.mmuext_op, at, 1, 0, domid) == 0

    assert info() == 0
    mmuext(int(MMUEXT_PIN_L1_TABLE))
    assert info() == int(XEN_DOMCTL_PFINFO_L1TAB) | 1 << 31
    mmuext(int(MMUEXT_UNPIN_TABLE))
    assert info() == 0
