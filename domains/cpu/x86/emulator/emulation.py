"""One emulated CPU from its making to a slice's end: what the engines of all kinds of guests do alike.

`open_cpu` makes it, `check_stops` completes the self-check once the kind's own code for a slice's end is in place, and an
`Emulation` runs it. Invariant: `cpu.running` is true exactly while guest code runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from domains.cpu.x86.emulator import selfcheck
from domains.cpu.x86.emulator.cpu_state import RIP, CpuState
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary, error_text, new_instance


class OpenCpu(NamedTuple):
    """A fresh CPU: Unicorn's instance, its functions, its registers."""

    uc: Any
    library: UnicornLibrary
    state: CpuState

    def check_stops(self, handler: int, ask: Callable[[], None]) -> None:
        """The C function at address `handler` ends a slice, and so does `ask`. Raises UnsupportedLibrary if it does not."""
        interposed().float_unit.set_stop(handler)
        selfcheck.check_floats(*self)
        selfcheck.check_stop(*self, ask)


def open_cpu() -> OpenCpu:
    """A CPU whose emulation no address ends. Raises UnsupportedLibrary if this Unicorn is not the one the engine knows."""
    ours = interposed()  # before the instance: it lays its code over the library's
    uc = new_instance()
    library = UnicornLibrary(uc)
    state = CpuState(uc, library)
    selfcheck.check(uc, library, state)
    ours.atomic_locks.want(True)
    selfcheck.check_locks(uc, library, state, lambda: ours.atomic_locks.unaligned)
    uc.ctl_exits_enabled(True)
    return OpenCpu(uc, library, state)


class Emulation:
    """Runs guest code. A Python exception cannot cross Unicorn's frames: a hook `keep`s it, and `run` raises it again."""

    def __init__(self, opened: OpenCpu, crash: Callable[[str], None]) -> None:
        """`crash` reports that Unicorn cannot go on, and does not return."""
        self._uc, self._library, self._cpu = opened  # the instance lives as long as it may run
        self._crash = crash
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Run guest code from rip until something ends emulation. Raises what a hook raised."""
        self._cpu.running = True
        error = self._library.emu_start(self._cpu.q[RIP])
        self._cpu.running = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if error:
            self._crash(f"the engine cannot go on: {error_text(error)}")

    def keep(self, failure: BaseException) -> None:
        """A hook raised this: emulation ends."""
        self._failure = failure
        self._library.emu_stop()
