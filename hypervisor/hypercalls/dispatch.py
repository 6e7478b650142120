"""From a request to its answer: the table look-up, the one place where an error becomes -errno, and continuations.

A continuation is a call that used up its portion's budget: it waits in `hv.run.continuations` and goes on after the others'
requests. Killing its domain between two portions drops it (Q5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypervisor.domain.domain import Life, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.run_state import Run
from hypervisor.hypercalls.call import Blocked, Call, Continue, DomainCrash, Result
from hypervisor.hypercalls.table import HYPERCALLS_OF
from hypervisor.machine.counters import NR_HYPERCALLS
from hypervisor.mm.budget import Budget, Restart
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.trace import TRC_PV_HYPERCALL_V2
from hypervisor.public.xen import Hypercall

HYPERCALL_NUMBERS: Final = frozenset(int(nr) for nr in Hypercall)
Args = tuple[int, int, int, int, int]


class Dispatcher:
    """Performs hypercalls of the vCPUs of one hypervisor."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self._counts = hv.counters.hypercalls
        self._trace = hv.trace

    def hypercall(self, vcpu: Vcpu, nr: int, args: Args, events_seen: int) -> None:
        """Perform one hypercall of `vcpu`, whose request is outstanding; its answer goes through `hv.run.answer`."""
        if nr < NR_HYPERCALLS:
            self._counts[nr] += 1
        if self._trace.sink is not None:
            self._trace.record(TRC_PV_HYPERCALL_V2, nr, vcpu.domain.domid, vcpu.vcpu_id)
        self._perform(Call(self.hv, vcpu.domain, vcpu, nr, args, perform, events_seen, abi=vcpu.abi))

    def go_on(self) -> None:
        """One portion of the continuation that has waited longest."""
        call = self.hv.run.continuations.popleft()
        assert isinstance(call, Call)
        if call.domain.life is Life.ALIVE and call.vcpu.run.state is Run.HYPERCALL:
            self._perform(call)

    def _perform(self, call: Call) -> None:
        result = perform(call)
        if isinstance(result, int):
            self.hv.run.answer(call.vcpu, result)
        elif isinstance(result, Continue):
            self.hv.run.continuations.append(
                replace(call, args=result.args, state=result.state, budget=Budget())
            )
        else:
            self.hv.run.answer(
                call.vcpu, 0
            )  # unless it sleeps: for a domain that shut down, should it be resumed


def hypercall_name(nr: int) -> str:
    """Xen's name of a hypercall, for the log."""
    return Hypercall(nr).name if nr in HYPERCALL_NUMBERS else "an unknown hypercall"


def perform(call: Call) -> Result:
    """Run one portion of a hypercall. Whatever happens, the hypervisor's state is consistent afterwards (H3)."""
    hv = call.hv
    handler = HYPERCALLS_OF[call.domain.kind].get(call.nr)
    if handler is None:
        name = hypercall_name(call.nr)
        hv.log.once(call.domain.domid, f"{name}: ENOSYS", f"{name} is not implemented")
        return -Errno.ENOSYS
    try:
        return handler(call)
    except XenError as error:
        name = hypercall_name(call.nr)
        hv.log.once(call.domain.domid, f"{name}: {error.errno.name}", f"{name}: {error}")
        return -error.errno
    except Restart:
        return Continue(call.args, call.state)
    except DomainCrash as crash:
        hv.crash(call.domain, str(crash))
    except Exception:  # noqa: BLE001 - H3: a bug of the hypervisor ends nobody but the caller
        hv.bug(call.domain, f"hypercall {call.nr} of d{call.domain.domid}")
    return Blocked()
