"""Which hypercall is performed by whom: one literal table. What is not in it answers -ENOSYS, is logged once and counted."""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Kind
from hypervisor.hypercalls.call import Handler
from hypervisor.hypercalls.callbacks import do_callback_op, do_set_callbacks, do_set_trap_table, do_vm_assist
from hypervisor.hypercalls.compat import (
    compat_set_callbacks,
    compat_update_descriptor,
    compat_update_va_mapping,
    compat_update_va_mapping_otherdomain,
)
from hypervisor.hypercalls.console_io import do_console_io
from hypervisor.hypercalls.descriptors import do_set_gdt, do_update_descriptor
from hypervisor.hypercalls.domctl import do_domctl
from hypervisor.hypercalls.event_channel_op import do_event_channel_op
from hypervisor.hypercalls.grant_table_op import do_grant_table_op, do_hvm_grant_table_op
from hypervisor.hypercalls.hvm_op import do_hvm_op
from hypervisor.hypercalls.memory_op import do_memory_op
from hypervisor.hypercalls.mmu_update import do_mmu_update
from hypervisor.hypercalls.mmuext_op import do_mmuext_op
from hypervisor.hypercalls.multicall import do_multicall
from hypervisor.hypercalls.physdev_op import do_hvm_physdev_op, do_physdev_op
from hypervisor.hypercalls.sched_op import do_sched_op, do_set_timer_op
from hypervisor.hypercalls.sysctl import do_sysctl
from hypervisor.hypercalls.update_va_mapping import do_update_va_mapping, do_update_va_mapping_otherdomain
from hypervisor.hypercalls.vcpu_op import do_vcpu_op
from hypervisor.hypercalls.xen_version import do_xen_version
from hypervisor.public.xen import Hypercall

HVM_HYPERCALLS: Final[dict[int, Handler]] = {
    Hypercall.memory_op: do_memory_op,
    Hypercall.multicall: do_multicall,
    Hypercall.set_timer_op: do_set_timer_op,
    Hypercall.xen_version: do_xen_version,
    Hypercall.console_io: do_console_io,
    Hypercall.grant_table_op: do_hvm_grant_table_op,
    Hypercall.vm_assist: do_vm_assist,
    Hypercall.vcpu_op: do_vcpu_op,
    Hypercall.sched_op: do_sched_op,
    Hypercall.event_channel_op: do_event_channel_op,
    Hypercall.physdev_op: do_hvm_physdev_op,
    Hypercall.hvm_op: do_hvm_op,
    Hypercall.sysctl: do_sysctl,
    Hypercall.domctl: do_domctl,
}
"""What an HVM guest may call (Xen's hvm_hypercall_table): nothing about page tables or descriptor tables, which are its own."""

HYPERCALLS: Final[dict[int, Handler]] = {
    Hypercall.set_trap_table: do_set_trap_table,
    Hypercall.mmu_update: do_mmu_update,
    Hypercall.set_gdt: do_set_gdt,
    Hypercall.set_callbacks: do_set_callbacks,
    Hypercall.update_descriptor: do_update_descriptor,
    Hypercall.memory_op: do_memory_op,
    Hypercall.multicall: do_multicall,
    Hypercall.update_va_mapping: do_update_va_mapping,
    Hypercall.set_timer_op: do_set_timer_op,
    Hypercall.xen_version: do_xen_version,
    Hypercall.console_io: do_console_io,
    Hypercall.grant_table_op: do_grant_table_op,
    Hypercall.vm_assist: do_vm_assist,
    Hypercall.update_va_mapping_otherdomain: do_update_va_mapping_otherdomain,
    Hypercall.vcpu_op: do_vcpu_op,
    Hypercall.mmuext_op: do_mmuext_op,
    Hypercall.sched_op: do_sched_op,
    Hypercall.callback_op: do_callback_op,
    Hypercall.event_channel_op: do_event_channel_op,
    Hypercall.physdev_op: do_physdev_op,
    Hypercall.hvm_op: do_hvm_op,
    Hypercall.sysctl: do_sysctl,
    Hypercall.domctl: do_domctl,
}

COMPAT_HYPERCALLS: Final[dict[int, Handler]] = {
    **HYPERCALLS,
    Hypercall.set_callbacks: compat_set_callbacks,
    Hypercall.update_descriptor: compat_update_descriptor,
    Hypercall.update_va_mapping: compat_update_va_mapping,
    Hypercall.update_va_mapping_otherdomain: compat_update_va_mapping_otherdomain,
}
"""Of a 32-bit PV guest: the same, but where a number of 64 bits takes two arguments, or a callback a selector."""

HYPERCALLS_OF: Final = {
    Kind.PV64: HYPERCALLS,
    Kind.PV32: COMPAT_HYPERCALLS,
    Kind.HVM: HVM_HYPERCALLS,
}
