"""The state of x87, MMX and SSE as the 512 bytes of FXSAVE: written from the emulated CPU, and back into it.

    0 fcw u16 | fsw u16 | ftw u8 | 0 | fop u16 | rip u64     in the CPU:  ST(i) is physical register (TOP + i) & 7;
    16 rdp u64 | mxcsr u32 | mxcsr_mask u32                               a tag there is 1 if the register is empty,
    32 ST(0) … ST(7), 16 bytes each                                       in ftw, by physical number, 1 if it is not
    160 XMM0 … XMM15, 16 bytes each

Source: Intel SDM vol. 1 §10.5.1; Xen arch/x86/domain.c (arch_set_info_guest), VGCF_i387_valid.
"""

import struct
from typing import Final

from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.float_unit import FloatUnit

SIZE: Final = 512
FPSTT, FPUS, FPTAGS, FPREGS, MXCSR, XMM = 0x25C, 0x260, 0x264, 0x270, 0x330, 0x338
"""Where they lie in the CPUX86State (float_listing): TOP u32, status and control u16, tags u8 each, registers."""
XMM_STRIDE: Final = 64
MXCSR_MASK: Final = 0xFFFF
ST_AT, XMM_AT = 32, 160
INITIAL: Final = struct.pack("<HHBBHQQII", 0x37F, 0, 0, 0, 0, 0, 0, 0x1F80, MXCSR_MASK).ljust(SIZE, b"\0")
"""As FNINIT and a reset leave it."""


def save_fpu(cpu: CpuState, unit: FloatUnit) -> bytes:
    """The image; exceptions that are gathered but not shown yet are in it."""
    unit.gather(cpu.env)
    octets = cpu.octets
    (top,) = struct.unpack_from("<I", octets, FPSTT)
    status, control = struct.unpack_from("<HH", octets, FPUS)
    tags = sum(1 << n for n in range(8) if not octets[FPTAGS + n])
    (mxcsr,) = struct.unpack_from("<I", octets, MXCSR)
    image = bytearray(SIZE)
    status = status & ~0x3800 | top << 11
    struct.pack_into("<HHBBHQQII", image, 0, control, status, tags, 0, 0, 0, 0, mxcsr, MXCSR_MASK)
    for n in range(8):
        register = FPREGS + 16 * (top + n & 7)
        image[ST_AT + 16 * n : ST_AT + 16 * n + 10] = octets[register : register + 10]
    for n in range(16):
        image[XMM_AT + 16 * n : XMM_AT + 16 * n + 16] = octets[
            XMM + XMM_STRIDE * n : XMM + XMM_STRIDE * n + 16
        ]
    return bytes(image)


def load_fpu(cpu: CpuState, unit: FloatUnit, image: bytes) -> None:
    """Take over an image; bits of MXCSR that there are not are dropped."""
    octets = cpu.octets
    control, status, tags, _, _, _, _, mxcsr, _ = struct.unpack_from("<HHBBHQQII", image)
    top = status >> 11 & 7
    struct.pack_into("<IHH", octets, FPSTT, top, status & ~0x3800, control)
    for n in range(8):
        octets[FPTAGS + n] = not tags >> n & 1
        register = FPREGS + 16 * (top + n & 7)
        octets[register : register + 10] = image[ST_AT + 16 * n : ST_AT + 16 * n + 10]
    for n in range(16):
        octets[XMM + XMM_STRIDE * n : XMM + XMM_STRIDE * n + 16] = image[
            XMM_AT + 16 * n : XMM_AT + 16 * n + 16
        ]
    struct.pack_into("<I", octets, MXCSR, mxcsr & MXCSR_MASK)
    unit.reload(cpu.env)
