"""A domain's way to the core in one process: the gate of every Xenoscope process, without a socket."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn

from domains.cpu.x86.registers import U64
from domains.lab.in_process import XenInProcess
from domains.lab.systems.system import Crashed, Ended
from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.requests import ProcessRequests
from hypervisor.public.event_channel import EventChannelOp
from hypervisor.public.grant_table import GrantTableOp
from hypervisor.public.sched import SchedOp
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import Effect, EffectRecord, Request

EXTENTS: Final = (int(Effect.MAP_EXTENT), int(Effect.UNMAP_EXTENT), int(Effect.CLOSE_MEMFD))
"""What a process of its own would have to do to see memory; this one sees all."""
SUBCALLS: Final[dict[int, type[IntEnum]]] = {
    Hypercall.event_channel_op: EventChannelOp,
    Hypercall.grant_table_op: GrantTableOp,
    Hypercall.sched_op: SchedOp,
}
"""What the first argument of some hypercalls says."""
Answer = tuple[int, list[EffectRecord]]


class InProcessGate:
    """domains.cpu.gate's Gate, without a socket: requests go to the core at once."""

    meter = None

    def __init__(self, xen: XenInProcess, domain: Domain) -> None:
        self._xen, self._domain = xen, domain
        self._requests = ProcessRequests(xen.hv)
        self.domid = domain.domid
        self.memory, self.mailbox = xen.memory, domain.mailbox

    def hypercall(self, vcpu: int, nr: int, *args: int) -> Answer:
        """Result and effects; the vCPU may have slept meanwhile, and others have run. Ended: its domain has shut down."""
        answer = self.answer(vcpu, nr, args)
        if not self._xen.one_cpu:
            self._xen.let_others_run()
        if self._xen.processes.machine_ended:
            raise Crashed("the machine has ended with Dom0")
        return answer

    def answer(self, vcpu: int, nr: int, args: tuple[int, ...]) -> Answer:
        """The same, and nobody else has run unless it slept."""
        answer = self.ask(vcpu, nr, args)
        if answer is None:
            answer = self._xen.sleep(self._domain.vcpus[vcpu])
        if self._xen.processes.machine_ended:
            raise Crashed("the machine has ended with Dom0")
        if answer is None:
            raise Crashed("the kernel waits for what never comes")
        return answer[0], self.without_extents(answer[1])

    def ask(self, vcpu: int, nr: int, args: tuple[int, ...]) -> Answer | None:
        """The same, and None for a vCPU that sleeps."""
        answer = self._xen.perform(self._domain.vcpus[vcpu], nr, *(arg & U64 for arg in args))
        if self._domain.life is not Life.ALIVE or self._domain.is_shut_down:
            raise Ended
        return answer

    @staticmethod
    def without_extents(effects: list[EffectRecord]) -> list[EffectRecord]:
        """What is left to do of the effects of an answer."""
        return [effect for effect in effects if effect[0] not in EXTENTS]

    def _request(self, vcpu: int, nr: Request, *args: int) -> Answer:
        one = self._domain.vcpus[vcpu]
        a, b, c, d, e = (*args, *(0,) * (5 - len(args)))
        self._xen.processes.answers.pop(one, None)
        self._requests.perform(one, one.run.seq + 1, nr, (a, b, c, d, e))
        result, effects = self._xen.processes.answers.pop(one)
        return result, self.without_extents(effects)

    def start(self, vcpu: int) -> list[EffectRecord]:
        """The first registers."""
        return self._request(vcpu, Request.START)[1]

    def stopped(self, _vcpu: int) -> Answer:
        """Nobody stops it."""
        return 0, []

    def post_event(self, _vcpu: int, _port: int) -> bool:
        """Each event is asked for."""
        return False

    def pte_write(self, vcpu: int, va: int, size: int, value: int, old: int | None) -> Answer:
        """A store to a page table that the core is to perform."""
        return self._request(vcpu, Request.PTE_WRITE, va, size, value, int(old is not None), old or 0)

    def new_baseptr(self, vcpu: int, mfn: int) -> Answer:
        """CR3 was written."""
        return self._request(vcpu, Request.NEW_BASEPTR, mfn)

    def map_ldt_page(self, vcpu: int, offset: int) -> Answer:
        """A page of the LDT is wanted."""
        return self._request(vcpu, Request.LDT_PAGE, offset)

    def raised(self, vcpu: int = 0) -> list[int]:
        """Event channels that were raised since the last call."""
        return self.mailbox.take_raised(vcpu)

    def crash(self, _vcpu: int, reason: str) -> NoReturn:
        """The guest broke the contract."""
        raise Crashed(reason)


def call_name(nr: int, args: tuple[int, ...]) -> str:
    """A hypercall as it is told: "grant_table_op copy"."""
    name = Hypercall(nr).name if nr in list(Hypercall) else f"hypercall {nr}"
    kind = SUBCALLS.get(nr)
    if kind is None or not args or args[0] not in list(kind):
        return name
    return f"{name} {kind(args[0]).name.split('_', 1)[1]}"
