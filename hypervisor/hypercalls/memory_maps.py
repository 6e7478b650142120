"""Where the M2P lies, and memory maps (Xen arch/x86/mm.c, arch/x86/x86_64/mm.c)."""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.memory_subject import subject
from hypervisor.hypercalls.outputs import write_outputs
from hypervisor.mm import layout
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.memory import (
    E820_RAM,
    E820_RESERVED,
    e820entry,
    xen_foreign_memory_map,
    xen_machphys_mapping,
    xen_machphys_mfn_list,
    xen_memory_map,
)

E820_MAX: Final = 1024
M2P_OF: Final = {
    64: (layout.M2P_MFN, layout.M2P_FRAMES),
    32: (layout.COMPAT_M2P_MFN, layout.COMPAT_M2P_FRAMES),
}
"""Where the M2P lies that a guest of this width sees, and how many frames it takes."""


def machphys_mapping(call: Call, arg: int, start: int) -> Result:
    """Where a guest sees the M2P."""
    word = call.domain.mem.rules.address_size // 8
    first = layout.RO_MPT_VIRT_START if word == 8 else layout.COMPAT_RO_MPT_VIRT_START
    end = first + layout.NR_FRAMES * word
    call.write(arg, xen_machphys_mapping(v_start=first, v_end=end, max_mfn=layout.NR_FRAMES - 1))
    return 0


def machphys_mfn_list(call: Call, arg: int, start: int) -> Result:
    """The frame number of each 2 MiB of the M2P, as many as there is room for."""
    request = call.read(arg, xen_machphys_mfn_list)
    first, frames = M2P_OF[call.domain.mem.rules.address_size]
    mfns = range(first, first + frames, 512)[: request.max_extents]
    call.write_words(request.extent_start, mfns)
    request.nr_extents = len(mfns)
    write_outputs(call, arg, request, "nr_extents")
    return 0


def memory_map(call: Call, arg: int, start: int) -> Result:
    """The caller's own map, as its builder set it. XenError(ENOSYS): it set none."""
    request = call.read(arg, xen_memory_map)
    entries = call.domain.mem.e820
    if not entries:
        raise XenError(Errno.ENOSYS, f"d{call.domain.domid} has no memory map")
    return tell(call, arg, request, entries)


def set_memory_map(call: Call, arg: int, start: int) -> Result:
    """What a domain is to be told of its memory. XenError(EPERM, ESRCH, EINVAL)."""
    request = call.read(arg, xen_foreign_memory_map)
    if request.map.nr_entries > E820_MAX:
        raise XenError(Errno.EINVAL, f"a map of {request.map.nr_entries} entries")
    domain = subject(call, request.domid)
    domain.mem.e820 = call.copy_from_guest(request.map.buffer, request.map.nr_entries * e820entry.sizeof)
    return 0


def machine_memory_map(call: Call, arg: int, start: int) -> Result:
    """The machine's own map: Xen's frames, and what domains' frames come from."""
    call.require_control()
    request = call.read(arg, xen_memory_map)
    xen = layout.XEN_FRAMES << 12
    entries = e820entry(addr=0, size=xen, type=int(E820_RESERVED)).pack()
    entries += e820entry(addr=xen, size=(layout.NR_FRAMES << 12) - xen, type=int(E820_RAM)).pack()
    if request.buffer and request.nr_entries < len(entries) // e820entry.sizeof:
        raise XenError(Errno.EINVAL, f"room for {request.nr_entries} entries is not enough")
    return tell(call, arg, request, entries)


def tell(call: Call, arg: int, request: xen_memory_map, entries: bytes) -> Result:
    """Copy as many entries as there is room for, and how many these were."""
    nr = min(request.nr_entries, len(entries) // e820entry.sizeof)
    if request.buffer:
        call.copy_to_guest(request.buffer, entries[: nr * e820entry.sizeof])
    request.nr_entries = nr if request.buffer else len(entries) // e820entry.sizeof
    call.write(arg, request)
    return 0
