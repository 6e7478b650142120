"""The registers of a vCPU of a paused domain, which its process has: asked for, and kept for whoever wants them.

GUEST, FROZEN ──► it stops first        HYPERCALL ──► it is finished first, so that its result can be shown
all others ── ask_to_save ──► the process answers SAVED ──► `vcpu.context`
"""

from __future__ import annotations

from collections.abc import Callable

from hypervisor.domain.domain import Vcpu
from hypervisor.domain.run_control import RunControl, RunPort
from hypervisor.domain.run_state import Run
from hypervisor.wire.messages import ProtocolError


class ContextSaving:
    """Of all vCPUs of a machine. Where each stands is in its `run` (run_state)."""

    def __init__(self, run: RunControl, port: RunPort, now: Callable[[], int]) -> None:
        self._run = run
        self._port = port
        self._now = now

    def save_context(self, vcpu: Vcpu) -> bool:
        """True when `vcpu.context` holds the registers of a vCPU of a paused domain; else they are on their way: ask again."""
        run = vcpu.run
        if run.saved or run.state in (Run.NEW, Run.GONE):
            return True
        if run.state is Run.FROZEN:  # it goes on to the end of its instruction
            self._run.slices.wake(vcpu.unit, self._now())
        elif run.state is Run.GUEST:
            self._run.vcpu_sleep(vcpu)
        elif run.state is not Run.HYPERCALL and not run.saving:
            run.saving = True
            self._port.ask_to_save(vcpu)
        return False

    def context_saved(self, vcpu: Vcpu, seq: int, context: bytes) -> None:
        """The process answered: what it waits for now is what it waited for before. Raises ProtocolError if nobody asked."""
        run = vcpu.run
        if not run.saving or seq != run.seq + 1:
            raise ProtocolError("registers that nobody asked for")
        run.seq, run.saving, run.saved = seq, False, True
        vcpu.context = context
        self._run.vcpu_wake(vcpu)
