"""Which structure the argument of an operation leads to, for guests that fill it with nonsense. None: there is no argument."""

from hypervisor.public import event_channel, grant_table, memory, sched, vcpu
from hypervisor.public.event_channel import EventChannelOp
from hypervisor.public.grant_table import GrantTableOp
from hypervisor.public.layout import Struct

EVENT_OPS = {op: getattr(event_channel, "evtchn_" + op.name[9:]) for op in EventChannelOp}
GRANT_OPS = {
    op: getattr(grant_table, "gnttab_" + op.name[9:])
    for op in GrantTableOp
    if op is not GrantTableOp.GNTTABOP_dump_table
}
MEMORY_OPS: dict[int, type[Struct]] = {
    0: memory.xen_memory_reservation,
    1: memory.xen_memory_reservation,
    3: memory.xen_memory_domain,
    4: memory.xen_memory_domain,
    5: memory.xen_machphys_mfn_list,
    6: memory.xen_memory_reservation,
    7: memory.xen_add_to_physmap,
    9: memory.xen_memory_map,
    11: memory.xen_memory_exchange,
    12: memory.xen_machphys_mapping,
    15: memory.xen_remove_from_physmap,
    28: memory.xen_mem_acquire_resource,
}
SCHED_OPS: dict[int, type[Struct] | None] = {
    0: None,
    1: None,
    3: sched.sched_poll,
    4: sched.sched_remote_shutdown,
    6: sched.sched_watchdog,
}
VCPU_OPS: dict[int, type[Struct] | None] = {
    0: vcpu.vcpu_runstate_info,
    1: None,
    2: None,
    3: vcpu.vcpu_runstate_info,
    4: vcpu.vcpu_runstate_info,
    5: vcpu.vcpu_register_runstate_memory_area,
    6: vcpu.vcpu_set_periodic_timer,
    8: vcpu.vcpu_set_singleshot_timer,
    10: vcpu.vcpu_register_vcpu_info,
    13: vcpu.vcpu_register_time_memory_area,
}
