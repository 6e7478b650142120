"""Trace records: what they are called. How one looks: hypervisor/machine/trace.py.

Only the events that have a trace point here are declared, and the classes they belong to. Source: Xen public/trace.h.
"""

from typing import Final

TRC_GEN: Final = 0x0001F000
TRC_SCHED: Final = 0x0002F000
TRC_MEM: Final = 0x0010F000
TRC_PV: Final = 0x0020F000
TRC_SCHED_VERBOSE: Final = 0x00028000
TRC_PV_ENTRY: Final = 0x00201000

TRC_SCHED_SWITCH_INFPREV: Final = TRC_SCHED_VERBOSE + 14  # domid, vCPU: it no longer holds a CPU
TRC_SCHED_SWITCH_INFNEXT: Final = TRC_SCHED_VERBOSE + 15  # domid, vCPU, CPU: it holds one now
TRC_PV_HYPERCALL_V2: Final = TRC_PV_ENTRY + 13  # hypercall number; here also domid, vCPU
TRC_PV_TRAP: Final = TRC_PV_ENTRY + 3  # here: vector, error code

# This project's own: Xen traces neither.
XENOSCOPE_TRC_EVTCHN_RAISE: Final = TRC_GEN + 0x100  # domid, port, vCPU
XENOSCOPE_TRC_PAGE_TYPE: Final = TRC_MEM + 0x100  # frame, its new type (PGT)
