"""What of the guest's machine lies outside its CPU: memory, ports, one interrupt line."""

from typing import NoReturn, Protocol

from hypervisor.machine.memory import MachineMemory


class Board(Protocol):
    """What an engine of this kind stands on."""

    memory: MachineMemory

    def read_port(self, port: int, size: int) -> int:
        """IN of `size` bytes."""

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT of `size` bytes."""

    def interrupt(self) -> int | None:
        """The vector of the interrupt that is pending, as long as it is."""

    def halt(self, *, interrupts: bool) -> None:
        """The CPU has halted, until an interrupt is pending; without `interrupts`, for ever."""

    def triple_fault(self, report: str) -> NoReturn:
        """The guest could not deliver a double fault."""

    def crash(self, reason: str) -> NoReturn:
        """The guest did what is not virtualized at all."""
