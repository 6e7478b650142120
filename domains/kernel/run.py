"""From the first registers to the guest's end: what a domain process runs for a Python image."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, TextIO, cast

from domains.cpu.gate import Gate
from domains.cpu.python_cpu import PythonCpu
from domains.kernel.image import image_spec, load_class
from domains.kernel.kernel import Kernel
from hypervisor.public.sched import SHUTDOWN_crash, SHUTDOWN_poweroff
from hypervisor.public.types import PAGE_SIZE
from hypervisor.wire.messages import EffectRecord


def run(gate: Gate, effects: Sequence[EffectRecord]) -> NoReturn:
    """Boot the kernel of the image at the initial rip and run its guest's `main`; the domain shuts down when
    that ends.
    """
    cpu = PythonCpu(gate)
    cpu.boot(effects)
    spec = image_spec(cpu.load(cpu.rip & -PAGE_SIZE, PAGE_SIZE))
    if spec is None:
        cpu.crash("the image is not that of a Python guest")
    kernel = Kernel(cpu)
    sys.stdout = sys.stderr = sys.stdin = cast(TextIO, kernel.console)
    kernel.shutdown(run_guest(kernel, spec))


def run_guest(kernel: Kernel, spec: str) -> int:
    """Run the guest class `spec`; the SHUTDOWN_… reason. What its `main` raises is printed on its console."""
    try:
        load_class(spec)(kernel).main()
    except Exception:  # noqa: BLE001 - the outermost loop of the process
        kernel.console.write(traceback.format_exc())
        return int(SHUTDOWN_crash)
    return int(SHUTDOWN_poweroff)
