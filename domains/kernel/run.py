"""From the first registers to the guest's end: what a domain process runs for a Python image."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, TextIO, cast

from domains.control.exit_code import EXIT_CODE_NODE
from domains.cpu.counting_cpu import CountingCpu
from domains.cpu.gate import Gate
from domains.cpu.python_cpu import PythonCpu
from domains.kernel.guest_class import load_class
from domains.kernel.image import image_spec
from domains.kernel.kernel import GuestEnded, Kernel
from hypervisor.public.errno import XenError
from hypervisor.public.sched import SHUTDOWN_crash
from hypervisor.public.types import PAGE_SIZE
from hypervisor.wire.messages import EffectRecord


def run(gate: Gate, effects: Sequence[EffectRecord]) -> NoReturn:
    """Boot the kernel of the image at the initial rip and run its guest's `main`; the domain shuts down when
    that ends.
    """
    cpu = PythonCpu(gate) if gate.meter is None else CountingCpu(gate, gate.meter)
    cpu.boot(effects)
    spec = image_spec(cpu.load(cpu.rip & -PAGE_SIZE, PAGE_SIZE))
    if spec is None:
        cpu.crash("the image is not that of a Python guest")
    kernel = Kernel(cpu)
    sys.stdout = sys.stderr = sys.stdin = cast(TextIO, kernel.console)
    kernel.shutdown(run_guest(kernel, spec))


def run_guest(kernel: Kernel, spec: str) -> int:
    """Run the guest class `spec`; the SHUTDOWN_… reason. What its `main` raises is printed on its console.

    sys.exit() is an end as ordinary as a return; with another code than 0, or with a text, it says that the guest has
    failed, and the domain ends as crashed.
    """
    try:
        load_class(spec)(kernel).main()
    except GuestEnded:
        raise
    except SystemExit as exit_:
        tell_code(kernel, exit_.code)
        what = exit_.code if isinstance(exit_.code, str) else f"the guest ended with code {exit_.code or 0}"
        kernel.console.write(f"{what}\n")
        return int(SHUTDOWN_crash) if exit_.code else kernel.end
    except BaseException:  # noqa: BLE001 - the outermost loop of the process
        kernel.console.write(traceback.format_exc())
        return int(SHUTDOWN_crash)
    return kernel.end


def tell_code(kernel: Kernel, code: object) -> None:
    """Leave sys.exit()'s code, as a process leaves it, in the domain's part of the store: `xenctl run` and the pytest plugin read
    it there. What the store refuses is not worth another end than the one that the guest has chosen.
    """
    if isinstance(code, int) and not kernel.in_handler:
        with suppress(XenError):
            kernel.xenbus.write(EXIT_CODE_NODE, str(code & 0xFF))
