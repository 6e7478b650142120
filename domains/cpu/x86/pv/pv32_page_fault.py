"""#PF of a 32-bit guest: behind a segment's limit it is the #GP or #SS that a CPU gives instead (segment_limit)."""

from domains.cpu.x86.pv.bounce import inject_hw_exception
from domains.cpu.x86.pv.page_fault import handle_page_fault
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.segment_limit import limit_fault
from hypervisor.machine.paging import PFEC_FETCH


def handle_compat_page_fault(v: X86Vcpu, va: int, error_code: int) -> None:
    """A fault of the guest at `va`."""
    instead = None if error_code & PFEC_FETCH else limit_fault(v.cpu, v.decoder, va)
    if instead is None:
        handle_page_fault(v, va, error_code)
        return
    v.exits["segment limit"] += 1
    inject_hw_exception(v, instead)
