"""A trace point tells its sink, in Xen's record format; without a sink nothing is made."""

from __future__ import annotations

import numpy as np

from hypervisor.machine.trace import Trace
from hypervisor.public.trace import (
    TRC_PV_HYPERCALL_V2,
    TRC_SCHED_SWITCH_INFNEXT,
    TRC_SCHED_SWITCH_INFPREV,
    XENOSCOPE_TRC_EVTCHN_RAISE,
    XENOSCOPE_TRC_PAGE_TYPE,
)
from hypervisor.public.types import Port
from hypervisor.public.xen import Hypercall
from tests.inprocess import hypervisor_in_process


def read(record: bytes) -> tuple[int, int, list[int]]:
    """(event, time, numbers) of one struct t_rec with cycles."""
    words = np.frombuffer(record, "<u4").tolist()
    assert words[0] >> 31
    assert words[0] >> 28 & 7 == len(words) - 3
    return words[0] & (1 << 28) - 1, words[2] << 32 | words[1], words[3:]


def test_a_record_is_xens() -> None:
    told: list[bytes] = []
    trace = Trace(lambda: 0x1_0000_0005)
    trace.record(1, 2)
    trace.sink = told.append
    trace.record(TRC_PV_HYPERCALL_V2, 1, (1 << 40) + 2)
    assert [read(record) for record in told] == [(TRC_PV_HYPERCALL_V2, 0x1_0000_0005, [1, 2])]


def test_the_cores_trace_points_tell_what_happens() -> None:
    told: list[bytes] = []
    with hypervisor_in_process() as machine:
        machine.hv.trace.sink = told.append
        built = machine.build()
        domid = built.domain.domid
        machine.hypercall(built.vcpu, Hypercall.xen_version, 0, 0)
        machine.hv.raise_port(built.domain, Port(3), 0)
        machine.destroy(built.domain)
        machine.hv.trace.sink = None
    events = [(event, numbers) for event, _, numbers in map(read, told)]
    assert (TRC_PV_HYPERCALL_V2, [int(Hypercall.xen_version), domid, 0]) in events
    assert (XENOSCOPE_TRC_EVTCHN_RAISE, [domid, 3, 0]) in events
    kinds = [event for event, _ in events]
    assert kinds.index(TRC_SCHED_SWITCH_INFNEXT) < kinds.index(TRC_SCHED_SWITCH_INFPREV)
    assert XENOSCOPE_TRC_PAGE_TYPE in kinds
