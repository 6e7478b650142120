"""Event channels: numbers, the argument of each operation, and the FIFO layout's constants.

Source: Xen public/event_channel.h.
"""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, Union, u8, u32, u64
from hypervisor.public.types import domid_t, evtchn_port_t


class EventChannelOp(IntEnum):
    """First argument of event_channel_op; the second points to `evtchn_<operation>`."""

    EVTCHNOP_bind_interdomain = 0
    EVTCHNOP_bind_virq = 1
    EVTCHNOP_bind_pirq = 2
    EVTCHNOP_close = 3
    EVTCHNOP_send = 4
    EVTCHNOP_status = 5
    EVTCHNOP_alloc_unbound = 6
    EVTCHNOP_bind_ipi = 7
    EVTCHNOP_bind_vcpu = 8
    EVTCHNOP_unmask = 9
    EVTCHNOP_reset = 10
    EVTCHNOP_init_control = 11
    EVTCHNOP_expand_array = 12
    EVTCHNOP_set_priority = 13


(
    EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_pirq, EVTCHNOP_close,
    EVTCHNOP_send, EVTCHNOP_status, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu,
    EVTCHNOP_unmask, EVTCHNOP_reset, EVTCHNOP_init_control, EVTCHNOP_expand_array,
    EVTCHNOP_set_priority,
) = EventChannelOp.__members__.values()  # fmt: skip


class EventChannelStatus(IntEnum):
    """`status` of evtchn_status."""

    EVTCHNSTAT_closed = 0
    EVTCHNSTAT_unbound = 1
    EVTCHNSTAT_interdomain = 2
    EVTCHNSTAT_pirq = 3
    EVTCHNSTAT_virq = 4
    EVTCHNSTAT_ipi = 5


(
    EVTCHNSTAT_closed, EVTCHNSTAT_unbound, EVTCHNSTAT_interdomain, EVTCHNSTAT_pirq, EVTCHNSTAT_virq,
    EVTCHNSTAT_ipi,
) = EventChannelStatus.__members__.values()  # fmt: skip

EVTCHN_2L_NR_CHANNELS: Final = 4096  # ports under the two-level layout of shared info
BIND_PIRQ__WILL_SHARE: Final = 1
EVTCHN_FIFO_PRIORITY_MAX: Final = 0
EVTCHN_FIFO_PRIORITY_DEFAULT: Final = 7
EVTCHN_FIFO_PRIORITY_MIN: Final = 15
EVTCHN_FIFO_MAX_QUEUES: Final = 16
EVTCHN_FIFO_PENDING: Final = 31  # bit of an event word
EVTCHN_FIFO_MASKED: Final = 30  # bit of an event word
EVTCHN_FIFO_LINKED: Final = 29  # bit of an event word
EVTCHN_FIFO_BUSY: Final = 28  # bit of an event word
EVTCHN_FIFO_LINK_BITS: Final = 17
EVTCHN_FIFO_LINK_MASK: Final = (1 << EVTCHN_FIFO_LINK_BITS) - 1
EVTCHN_FIFO_NR_CHANNELS: Final = 1 << EVTCHN_FIFO_LINK_BITS


class evtchn_alloc_unbound(Struct, size=8):
    """A new port of `dom` to which `remote_dom` may connect."""

    dom: domid_t  # IN
    remote_dom: domid_t  # IN
    port: evtchn_port_t  # OUT


class evtchn_bind_interdomain(Struct, size=12):
    """A new port of the caller, connected to an unbound port that was made for it."""

    remote_dom: domid_t  # IN
    remote_port: evtchn_port_t  # IN
    local_port: evtchn_port_t  # OUT


class evtchn_bind_virq(Struct, size=12):
    """A new port for a virtual interrupt."""

    virq: u32  # IN: VIRQ_*
    vcpu: u32  # IN: 0 for a global VIRQ
    port: evtchn_port_t  # OUT


class evtchn_bind_pirq(Struct, size=12):
    """A new port for a physical interrupt."""

    pirq: u32  # IN
    flags: u32  # IN: BIND_PIRQ__*
    port: evtchn_port_t  # OUT


class evtchn_bind_ipi(Struct, size=8):
    """A new port by which the domain's vCPUs interrupt this one."""

    vcpu: u32  # IN
    port: evtchn_port_t  # OUT


class evtchn_close(Struct, size=4):
    """End a port; its other end becomes unbound."""

    port: evtchn_port_t  # IN


class evtchn_send(Struct, size=4):
    """Raise the event at the port's other end."""

    port: evtchn_port_t  # IN


class evtchn_status_u_unbound(Struct, size=2):
    """`unbound` of evtchn_status_u."""

    dom: domid_t  # who may bind


class evtchn_status_u_interdomain(Struct, size=8):
    """`interdomain` of evtchn_status_u."""

    dom: domid_t
    port: evtchn_port_t


class evtchn_status_u(Union, size=8):
    """`u` of evtchn_status."""

    unbound: evtchn_status_u_unbound
    interdomain: evtchn_status_u_interdomain
    pirq: u32
    virq: u32


class evtchn_status(Struct, size=24):
    """What a port is connected to."""

    dom: domid_t  # IN
    port: evtchn_port_t  # IN
    status: u32  # OUT: EVTCHNSTAT_*
    vcpu: u32  # OUT: which one is notified
    u: evtchn_status_u  # OUT


class evtchn_bind_vcpu(Struct, size=8):
    """Let a port notify another vCPU."""

    port: evtchn_port_t  # IN
    vcpu: u32  # IN


class evtchn_unmask(Struct, size=4):
    """Unmask a port, and deliver the event if one is pending."""

    port: evtchn_port_t  # IN


class evtchn_reset(Struct, size=2):
    """Close all ports of a domain and return to the two-level layout."""

    dom: domid_t  # IN


class evtchn_init_control(Struct, size=24):
    """Use the FIFO layout; this vCPU's control block lies there."""

    control_gfn: u64  # IN
    offset: u32  # IN: bytes in that frame
    vcpu: u32  # IN
    link_bits: u8  # OUT: width of a link
    _pad: Annotated[bytes, 7]


class evtchn_expand_array(Struct, size=8):
    """Add a frame of event words."""

    array_gfn: u64  # IN


class evtchn_set_priority(Struct, size=8):
    """Which of the FIFO queues a port's event goes into."""

    port: evtchn_port_t  # IN
    priority: u32  # IN: 0 is the highest, 15 the lowest


class evtchn_op_u(Union, size=24):
    """`u` of evtchn_op."""

    alloc_unbound: evtchn_alloc_unbound
    bind_interdomain: evtchn_bind_interdomain
    bind_virq: evtchn_bind_virq
    bind_pirq: evtchn_bind_pirq
    bind_ipi: evtchn_bind_ipi
    close: evtchn_close
    send: evtchn_send
    status: evtchn_status
    bind_vcpu: evtchn_bind_vcpu
    unmask: evtchn_unmask


class evtchn_op(Struct, size=28):
    """Argument of event_channel_op_compat, the hypercall of old guests."""

    cmd: u32  # EVTCHNOP_*
    u: evtchn_op_u


class evtchn_fifo_control_block(Struct, size=72):
    """One vCPU's heads of its FIFO queues."""

    ready: u32  # bit n: queue n is not empty
    _rsvd: u32
    head: Annotated[tuple[u32, ...], 16]
