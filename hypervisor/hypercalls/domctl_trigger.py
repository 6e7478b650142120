"""domctl's sendtrigger: what a domain can be made to feel from outside (Xen arch/x86/domctl.c, XEN_DOMCTL_sendtrigger)."""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call, Result
from hypervisor.public.domctl import (
    XEN_DOMCTL_SENDTRIGGER_NMI,
    XEN_DOMCTL_SENDTRIGGER_POWER,
    XEN_DOMCTL_SENDTRIGGER_SLEEP,
    xen_domctl,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.wire.mailbox import Engine
from hypervisor.wire.messages import Effect

PV_OF_MACHINE_CODE: Final = (Engine.X86_64, Engine.X86_32)


def do_sendtrigger(call: Call, op: xen_domctl, target: Domain) -> Result:
    """An NMI of a PV guest's vCPU, which comes before its next instruction once it is answered. ESRCH: no such vCPU.

    EINVAL: the buttons are an HVM domain's with ACPI, which none is here; ENOSYS: the others, as on Xen. EOPNOTSUPP: an NMI
    of a guest that is not machine code under PV.
    """
    wanted = op.u.sendtrigger
    if wanted.vcpu >= len(target.vcpus):
        raise XenError(Errno.ESRCH, f"d{target.domid} has no vCPU {wanted.vcpu}")
    if wanted.trigger in (XEN_DOMCTL_SENDTRIGGER_POWER, XEN_DOMCTL_SENDTRIGGER_SLEEP):
        raise XenError(Errno.EINVAL, f"d{target.domid} has no ACPI buttons")
    if wanted.trigger != XEN_DOMCTL_SENDTRIGGER_NMI:
        raise XenError(Errno.ENOSYS, f"trigger {wanted.trigger}")
    if target.mailbox.engine not in PV_OF_MACHINE_CODE:
        raise XenError(Errno.EOPNOTSUPP, f"d{target.domid} takes no NMI: it is no PV guest of machine code")
    vcpu = target.vcpus[wanted.vcpu]
    run = call.hv.run
    vcpu.effects.append([Effect.NMI])
    run.vcpu_unblock(vcpu)
    run.vcpu_sleep(vcpu)  # it is to ask the core, which alone tells it
    run.vcpu_wake(vcpu)
    return 0
