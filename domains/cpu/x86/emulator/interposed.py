"""What of the library's functions is ours in this process: laid over it once, before its first Unicorn is made, for that is when
Unicorn notes the addresses of its own functions.
"""

import functools
from typing import NamedTuple

from domains.cpu.x86.emulator.atomic_locks import AtomicLocks
from domains.cpu.x86.emulator.control_zero import ControlZero
from domains.cpu.x86.emulator.float_unit import FloatUnit
from domains.cpu.x86.emulator.host_float import HostFloat
from domains.cpu.x86.emulator.int_length import IntLength
from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.null_task import NullTask
from domains.cpu.x86.emulator.twin_tlb import TwinTlb
from domains.cpu.x86.emulator.untranslatable import Untranslatable
from domains.cpu.x86.emulator.wide_exchange import WideExchange


class Interposed(NamedTuple):
    """Each serves every CPU of the process."""

    float_unit: FloatUnit
    host_float: HostFloat
    int_length: IntLength
    wide_exchange: WideExchange
    untranslatable: Untranslatable
    null_task: NullTask
    control_zero: ControlZero
    atomic_locks: AtomicLocks
    twin_tlb: TwinTlb


@functools.cache
def interposed() -> Interposed:
    """This process's; made at the first call. Raises UnsupportedLibrary."""
    interposer = Interposer()
    return Interposed(
        FloatUnit(interposer),
        HostFloat(interposer),
        IntLength(interposer),
        WideExchange(interposer),
        Untranslatable(interposer),
        NullTask(interposer),
        ControlZero(interposer),
        AtomicLocks(interposer),
        TwinTlb(interposer),
    )
