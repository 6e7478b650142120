"""What a domain's process asks on its own account, beside its guest's hypercalls (wire/messages.py, Request)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain, Life, Vcpu, Work
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.mm.budget import Budget, Portion, Restart
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.params import HVM_PARAM_TRIPLE_FAULT_REASON
from hypervisor.public.sched import SHUTDOWN_reboot
from hypervisor.public.xenoscope_hvm import xenoscope_hvm_vcpu
from hypervisor.wire.messages import ProtocolError, Request

Args = tuple[int | bytes, int, int, int, int]
_OF_PV: Final = frozenset((int(Request.PTE_WRITE), int(Request.NEW_BASEPTR), int(Request.LDT_PAGE)))
"""What only a PV guest's page tables and descriptor tables give occasion for."""


class ProcessRequests:
    """A request's handler raises ProtocolError for what no honest process sends."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self._handlers: Final[dict[int, Callable[[Vcpu, int, Args], None]]] = {
            Request.START: self._start,
            Request.STOPPED: self._stopped,
            Request.CRASH: self._crash,
            Request.SAVED: self._saved,
            Request.PTE_WRITE: self._pte_write,
            Request.NEW_BASEPTR: self._new_baseptr,
            Request.LDT_PAGE: self._ldt_page,
            Request.TRIPLE_FAULT: self._triple_fault,
        }

    def perform(self, vcpu: Vcpu, seq: int, nr: int, args: Args) -> None:
        """Performs one request. ProtocolError: no honest process sends it."""
        handler = self._handlers.get(nr)
        if handler is None:
            raise ProtocolError(f"request {nr}")
        if nr in _OF_PV and vcpu.domain.is_hvm:
            raise ProtocolError(f"request {nr} of an HVM guest")
        if nr != Request.SAVED:
            self.hv.run.request(vcpu, seq, nr)
        handler(vcpu, seq, args)

    def irq(self, domain: Domain, irq: int) -> None:
        """A host descriptor of Dom0 is ready: its physical interrupt. Anybody else's irq is a lie."""
        if irq not in domain.events.permitted_pirqs:
            raise ProtocolError(f"irq {irq}")
        domain.events.send_pirq(irq)

    def _start(self, vcpu: Vcpu, seq: int, _args: Args) -> None:
        if seq != 1:
            raise ProtocolError("a second START")
        self.hv.run.answer(vcpu, 0)

    def _stopped(self, vcpu: Vcpu, _seq: int, _args: Args) -> None:
        """The slice is over: a vCPU that has nobody to give way to goes on at once, unless its grant flags are wanted at rest."""
        self.hv.run.answer(vcpu, 0)

    def _crash(self, vcpu: Vcpu, _seq: int, args: Args) -> None:
        if not isinstance(args[0], bytes):
            raise ProtocolError("a crash without a reason")
        self.hv.crash(vcpu.domain, args[0].decode("utf-8", "replace"))
        self.hv.run.answer(vcpu, 0)

    def _triple_fault(self, vcpu: Vcpu, _seq: int, args: Args) -> None:
        """The domain shuts down as its toolstack has said, else to be started again (Xen hvm_triple_fault)."""
        domain = vcpu.domain
        if not isinstance(args[0], bytes) or not domain.is_hvm:
            raise ProtocolError("a triple fault without registers, or of a PV guest")
        reason = domain.hvm_params.get(HVM_PARAM_TRIPLE_FAULT_REASON, int(SHUTDOWN_reboot))
        registers = args[0].decode("utf-8", "replace")
        self.hv.log.line(f"d{domain.domid} triple fault, shutdown code {reason}: {registers}")
        self.hv.shutdown(domain, reason)
        self.hv.run.answer(vcpu, 0)

    def _saved(self, vcpu: Vcpu, seq: int, args: Args) -> None:
        context = args[0]
        if not isinstance(context, bytes):
            raise ProtocolError("registers that are no bytes")
        domain = vcpu.domain
        whole = xenoscope_hvm_vcpu.sizeof if domain.is_hvm else domain.abi.sizeof(vcpu_guest_context)
        if len(context) not in (0, whole):
            raise ProtocolError(f"registers of {len(context)} bytes")
        self.hv.saving.context_saved(vcpu, seq, context or vcpu.context)

    def _new_baseptr(self, vcpu: Vcpu, _seq: int, args: Args) -> None:
        """A guest kernel's `mov cr3`: X3's rules; a table that takes long to validate goes on in the background. What a refused
        one leaves is torn down before the guest goes on, as after mmuext_op: its next update would go by older types.
        """
        mfn = args[0]
        if isinstance(mfn, bytes):
            raise ProtocolError("bytes for a frame number")
        refused = 0

        def step() -> bool:
            nonlocal refused
            if vcpu.domain.life is not Life.ALIVE:
                return True
            portion = Portion(vcpu.mem, Budget())
            try:
                self.hv.mmu.types.finish_old_table(portion)
                if not refused:
                    self.hv.mmu.bases.new_baseptr(vcpu.mem, mfn, portion)
            except Restart:
                return False
            except XenError as error:
                refused = -error.errno
                if vcpu.mem.old_table is not None:
                    return False
            self.hv.run.answer(vcpu, refused)
            return True

        if not step():
            self.hv.work.append(Work(vcpu.domain, step))

    def _ldt_page(self, vcpu: Vcpu, _seq: int, args: Args) -> None:
        """The CPU missed an LDT page; beyond the limit nothing is promoted (X6, XSA-298)."""
        if isinstance(args[0], bytes):
            raise ProtocolError("bytes for an offset")
        shown = self.hv.mmu.descriptors.map_ldt_page(vcpu.mem, args[0])
        self.hv.run.answer(vcpu, 0 if shown else -Errno.EFAULT)

    def _pte_write(self, vcpu: Vcpu, _seq: int, args: Args) -> None:
        """A store of the guest to a page table that it sees read-only (P12): answered 0, -EFAULT (a fault for the guest), or 1
        when a compare-and-exchange found another value."""
        va, size, value, has_old, old = args
        if isinstance(va, bytes):
            raise ProtocolError("bytes for an address")
        try:
            expected = old if has_old else None
            stored = self.hv.mmu.va_mapping.ptwr_emulated_update(vcpu.mem, va, size, value, expected)
            result = 0 if stored else 1
        except XenError as error:
            result = -int(error.errno or Errno.EFAULT)
        self.hv.run.answer(vcpu, result)
