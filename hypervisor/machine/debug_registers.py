"""What DR6 and DR7 hold while no breakpoint is set (Xen arch/x86/include/asm/debugreg.h, Intel SDM vol. 3B §18.2)."""

from typing import Final

DR6_DEFAULT: Final = 0xFFFF0FF0
"""Reserved bits read as ones; bit 12 and the upper half as zeros."""
DR7_DEFAULT: Final = 0x400
"""Bit 10 reads as one."""
