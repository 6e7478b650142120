"""Where an unported guest's frames lie in the machine: in another order, so that nothing works by accident."""

from __future__ import annotations

from typing import Final

from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

GUEST_PAGES: Final = 1024
"""4 MiB: the kernel's memory."""
MACHINE_PAGES: Final = 4096
FIRST_GUEST_FRAME: Final = 2048
SCATTER: Final = 389
"""A prime, so that each frame has a place of its own."""


def machine_frame(page: int) -> int:
    """Where a guest's page lies."""
    return FIRST_GUEST_FRAME + page * SCATTER % GUEST_PAGES


def machine_address(address: int) -> int:
    """Where a guest's physical address lies."""
    return machine_frame(address >> PAGE_SHIFT) << PAGE_SHIFT | address % PAGE_SIZE
