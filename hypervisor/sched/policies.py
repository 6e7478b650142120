"""All schedulers, by name and by number: the table that a command line, a CPU pool and a simulation choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.public.errno import Errno, XenError
from hypervisor.sched.arinc653 import Arinc653
from hypervisor.sched.bvt import Bvt
from hypervisor.sched.credit import Credit
from hypervisor.sched.credit2 import Credit2
from hypervisor.sched.null import Null
from hypervisor.sched.params import MAX_SLICE_NS, MIN_SLICE_NS
from hypervisor.sched.round_robin import RoundRobin
from hypervisor.sched.rtds import Rtds
from hypervisor.sched.scheduler import Scheduler

DEFAULT_SCHEDULER: Final = "credit2"

POLICIES: Final[dict[str, Callable[[], Scheduler]]] = {
    Credit2.name: Credit2,
    Credit.name: Credit,
    Rtds.name: Rtds,
    Arinc653.name: Arinc653,
    Null.name: Null,
    Bvt.name: Bvt,
    RoundRobin.name: RoundRobin,
}
_WITH_SLICE: Final[dict[str, Callable[[int], Scheduler]]] = {
    Credit2.name: Credit2,
    Credit.name: Credit,
    Bvt.name: Bvt,
    RoundRobin.name: RoundRobin,
}
"""Those for which a slice's length means something; ns."""

SCHED_IDS: Final = {name: make().sched_id for name, make in POLICIES.items()}
"""XEN_SCHEDULER_… of each, by name; BVT and round robin, which Xen does not have, have numbers of our own from 0x100 on."""
SCHED_NAMES: Final = {number: name for name, number in SCHED_IDS.items()}
"""The names by XEN_SCHEDULER_…"""


def make_scheduler(name: str, slice_ns: int | None = None) -> Scheduler:
    """A fresh scheduler, for a machine or a new CPU pool. `slice_ns`: how long a slice is at most, 0.1 ms to 1 s; None: as usual.

    What a slice is: under credit also the accounting period, under credit2 the credit that is given out, under BVT the
    context-switch allowance. XenError(EINVAL) for a name that is none, a slice out of range, or one for a scheduler that has
    none.
    """
    if name not in POLICIES:
        raise XenError(Errno.EINVAL, f"there is no scheduler {name!r}, but {', '.join(POLICIES)}")
    if slice_ns is None:
        return POLICIES[name]()
    if name not in _WITH_SLICE:
        raise XenError(Errno.EINVAL, f"{name} has no length of a slice to be set")
    if not MIN_SLICE_NS <= slice_ns <= MAX_SLICE_NS:
        raise XenError(Errno.EINVAL, f"a slice is {MIN_SLICE_NS} to {MAX_SLICE_NS} ns, not {slice_ns}")
    return _WITH_SLICE[name](slice_ns)
