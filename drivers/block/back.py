"""Block back: serves every virtual block device whose back end the toolstack puts into this domain."""

from domains.kernel.kernel import Kernel
from drivers.back_ends import BackEnds
from drivers.block.device import BlockDevice


class BlockBack(BackEnds[BlockDevice]):
    """All devices below backend/vbd."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "vbd", BlockDevice)
