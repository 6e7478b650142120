"""A vCPU's work is the blocks of guest code that it enters, on a machine that repeats itself."""

from domains.cpu.meter import Meter
from domains.cpu.x86.emulator.block_count import BlockCount, stop_clock
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from hypervisor.wire.mailbox import Mailbox


class BlockMeter(Meter):
    """`Meter` for all vCPUs of one emulated CPU, of which `current` has got the last answer."""

    def __init__(self, mailbox: Mailbox, library: UnicornLibrary, current: int) -> None:
        self.blocks = BlockCount(library)
        self._clock = stop_clock()
        super().__init__(mailbox)
        self.take(current)

    def take(self, vcpu: int) -> None:
        """See `Meter`."""
        super().take(vcpu)
        self.blocks.allow(self.budget, self.unit, self.resume)

    @property
    def work(self) -> int:
        """See `Meter`."""
        return self.budget - self.blocks.left

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up: emulation has ended for that."""
        return self.blocks.left < 0
