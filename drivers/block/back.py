"""Block back: serves every virtual block device whose back end the toolstack puts into this domain."""

from functools import partial

from domains.kernel.kernel import Kernel
from drivers.back_ends import BackEnds
from drivers.block.device import BlockDevice
from drivers.block.overlay import Overlays


class BlockBack(BackEnds[BlockDevice]):
    """All devices below backend/vbd. `overlays`: the disks of forks."""

    def __init__(self, kernel: Kernel) -> None:
        self.overlays = Overlays()
        super().__init__(kernel, "vbd", partial(BlockDevice, overlays=self.overlays))
