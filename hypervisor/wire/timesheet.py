"""The words of the mailbox by which a vCPU's work becomes time, on a machine that repeats itself (docs/determinism.md).

    vCPU  +32  resume u64   system time, ns, when the vCPU goes on                          (core, with each answer)
          +40  budget u64   units of work after which it is to stop                         (core, with each answer)
          +48  work u64     units that it has done since                                    (process, with each request)
          +56  unit u64     ns that a unit takes; 0: time stands still                      (core, with each answer)
    0xC38  repeats u8       1: the machine repeats itself, and these words count            (core, once)
    0xC40  seed u64         what the process's random choices follow from                   (core, once)

Nobody writes a word while the other side reads it: the core writes while the vCPU is at rest, the process before it asks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hypervisor.public.types import U64

_VCPU: Final = 0x400
_STRIDE: Final = 64
_END: Final = 0xC00
_REPEATS: Final = 0xC38
_SEED: Final = 0xC40
_RESUME, _BUDGET, _WORK, _UNIT = 4, 5, 6, 7


class Allowance(NamedTuple):
    """What a vCPU is given when it goes on: the time, ns; how many units of work it may do; how many ns each of them takes."""

    resume: int
    budget: int
    unit: int


class Timesheet:
    """One domain's words, in `octets`, its mailbox."""

    def __init__(self, octets: memoryview) -> None:
        self._octets = octets
        self._words = octets[_VCPU:_END].cast("Q")

    # --- the core's side -------------------------------------------------------------------------

    def set_seed(self, seed: int) -> None:
        """Once, before the process is there: the machine repeats itself, from this seed."""
        self._octets[_REPEATS] = 1
        self._octets[_SEED : _SEED + 8] = (seed & U64).to_bytes(8, "little")

    def allow(self, vcpu: int, allowance: Allowance) -> None:
        """Before the vCPU goes on."""
        at = vcpu * (_STRIDE // 8)
        self._words[at + _RESUME], self._words[at + _BUDGET], self._words[at + _UNIT] = allowance

    def work(self, vcpu: int) -> int:
        """Units of work that the process says the vCPU has done; it may say any number."""
        return self._words[vcpu * (_STRIDE // 8) + _WORK]

    # --- the process's side ----------------------------------------------------------------------

    @property
    def repeats(self) -> bool:
        """Whether the machine repeats itself."""
        return bool(self._octets[_REPEATS])

    @property
    def seed(self) -> int:
        """What this process's random choices follow from."""
        return int.from_bytes(self._octets[_SEED : _SEED + 8], "little")

    def allowance(self, vcpu: int) -> Allowance:
        """What the vCPU was given with the last answer."""
        at = vcpu * (_STRIDE // 8)
        return Allowance(self._words[at + _RESUME], self._words[at + _BUDGET], self._words[at + _UNIT])

    def hand_in(self, vcpu: int, work: int) -> None:
        """Before each request: the units of work done since the last answer."""
        self._words[vcpu * (_STRIDE // 8) + _WORK] = work

    def close(self) -> None:
        """Lets go of the pages."""
        self._words.release()
