"""console_io: text into the hypervisor's log (Xen drivers/char/console.c). There is no host console to read from.

A guest's text is gathered into lines, made harmless and limited (hypervisor/domain/guest_console.py), and marked with its domain.
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import VIRQ_CON_RING, CONSOLEIO_read, CONSOLEIO_write

_CHUNK: Final = 4096


def _write(call: Call) -> Result:
    """(CONSOLEIO_write, count, text)"""
    _, count, va = call.args[:3]
    count &= 0xFFFF_FFFF
    if count == 0:
        return 0
    part = min(count, _CHUNK)
    for line in call.domain.console.write(call.copy_from_guest(va, part), call.hv.now()):
        call.hv.log.line(f"(d{call.domain.domid}) {line}")
        call.hv.virqs.send(VIRQ_CON_RING)  # as conring_puts tells the control domain
    return Continue((CONSOLEIO_write, count - part, va + part, 0, 0)) if count > part else 0


def _read(call: Call) -> Result:
    """Nothing is ever typed at the hypervisor's console: no bytes."""
    call.require_control()
    return 0


CONSOLE_OPS: Final = {int(CONSOLEIO_write): _write, int(CONSOLEIO_read): _read}


def do_console_io(call: Call) -> Result:
    """Writing to the hypervisor's console. ENOSYS: no such operation."""
    op = CONSOLE_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"console_io {call.args[0]}")
    return op(call)
