"""What runs a guest, seen from the domain process: the x86 engine and the Python CPU have this in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, Protocol

from hypervisor.wire.messages import EffectRecord


class Cpu(Protocol):
    """One vCPU. `apply` before the guest's next instruction; `run` until the domain ends."""

    def apply(self, effects: Sequence[EffectRecord]) -> None:
        """Perform the effects of a reply, in order (docs/contracts.md)."""

    def run(self) -> NoReturn:
        """Run guest code; the process exits when the domain is over."""
