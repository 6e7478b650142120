"""console_io: text into the hypervisor's log (Xen drivers/char/console.c). There is no host console to read from.

A guest's text is gathered into lines and marked with its domain; what it writes is bounded by the log's ring.
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import CONSOLEIO_read, CONSOLEIO_write

_CHUNK: Final = 4096
MAX_LINE: Final = 1024


def _write(call: Call) -> Result:
    """(CONSOLEIO_write, count, text)"""
    _, count, va = call.args[:3]
    count &= 0xFFFF_FFFF
    if count == 0:
        return 0
    part = min(count, _CHUNK)
    _gather(call, call.copy_from_guest(va, part))
    return Continue((CONSOLEIO_write, count - part, va + part, 0, 0)) if count > part else 0


def _gather(call: Call, text: bytes) -> None:
    line = call.domain.console_line
    for piece in text.replace(b"\r", b"").replace(b"\0", b"").splitlines(keepends=True):
        line += piece
        if piece.endswith(b"\n") or len(line) >= MAX_LINE:
            call.hv.log.line(f"(d{call.domain.domid}) " + line.decode("utf-8", "replace").rstrip("\n"))
            line.clear()


def _read(call: Call) -> Result:
    """Nothing is ever typed at the hypervisor's console: no bytes."""
    call.require_control()
    return 0


CONSOLE_OPS: Final = {int(CONSOLEIO_write): _write, int(CONSOLEIO_read): _read}


def do_console_io(call: Call) -> Result:
    op = CONSOLE_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"console_io {call.args[0]}")
    return op(call)
