"""How a 32-bit guest lays out the structures of its hypercalls (Xen's common/compat and compat headers).

Most follow from the native declaration: in i386's C an unsigned long, a pointer and a frame number have 32 bits (`WORD` in
types.py), and no number is aligned to more than four bytes. Those that differ by more are declared here under Xen's names
for them, `compat_…`. What is the same in both widths has no layout here.

A record read in such a layout has the native record's fields; of vcpu_guest_context, shared_info and callback_register it has
those of the declarations below.

Source: Xen public/arch-x86/xen-x86_32.h, public/callback.h, xen/include/xlat.lst.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin

from hypervisor.public import (
    callback,
    event_channel,
    grant_table,
    memory,
    nmi,
    physdev,
    sched,
    vcpu,
    version,
    xen,
)
from hypervisor.public.arch_x86.xen import (
    arch_shared_info,
    trap_info,
    vcpu_guest_context,
    vcpu_guest_context_fpu_ctxt,
)
from hypervisor.public.arch_x86.xen_x86_64 import arch_vcpu_info
from hypervisor.public.callback import callback_register
from hypervisor.public.hvm import hvm_op
from hypervisor.public.io import blkif
from hypervisor.public.layout import Buffer, Struct, Union, i32, u8, u16, u32
from hypervisor.public.types import WORD
from hypervisor.public.xen import shared_info, vcpu_info, vcpu_time_info

ALIGNMENT: Final = 4
"""No number of i386's C is aligned to more bytes."""


class compat_cpu_user_regs(Struct, size=68):
    """General registers of a 32-bit context."""

    ebx: u32
    ecx: u32
    edx: u32
    esi: u32
    edi: u32
    ebp: u32
    eax: u32
    error_code: u16  # Xen's own
    entry_vector: u16  # Xen's own
    eip: u32
    cs: u16
    saved_upcall_mask: u8
    _pad0: u8
    eflags: u32
    esp: u32
    ss: u16
    _pad1: u16
    es: u16
    _pad2: u16
    ds: u16
    _pad3: u16
    fs: u16
    _pad4: u16
    gs: u16
    _pad5: u16


class compat_trap_info(Struct, size=8):
    """trap_info."""

    vector: u8
    flags: u8
    cs: u16
    address: u32


class compat_vcpu_guest_context(Struct, size=2800):
    """Whole state of one 32-bit PV vCPU."""

    fpu_ctxt: vcpu_guest_context_fpu_ctxt
    flags: u32  # VGCF_*
    user_regs: compat_cpu_user_regs
    trap_ctxt: Annotated[tuple[compat_trap_info, ...], 256]
    ldt_base: u32
    ldt_ents: u32
    gdt_frames: Annotated[tuple[u32, ...], 16]  # Mfn each
    gdt_ents: u32
    kernel_ss: u32
    kernel_sp: u32
    ctrlreg: Annotated[
        tuple[u32, ...], 8
    ]  # CR0-CR7; CR3 is folded: a frame's number, rotated left by 12 bits
    debugreg: Annotated[tuple[u32, ...], 8]
    event_callback_cs: u32
    event_callback_eip: u32
    failsafe_callback_cs: u32
    failsafe_callback_eip: u32
    vm_assist: u32


class compat_arch_vcpu_info(Struct, size=24):
    """arch_vcpu_info."""

    cr2: u32
    pad: Annotated[tuple[u32, ...], 5]


class compat_vcpu_info(Struct, size=64, pack=ALIGNMENT):
    """vcpu_info."""

    evtchn_upcall_pending: u8
    evtchn_upcall_mask: u8
    evtchn_pending_sel: u32
    arch: compat_arch_vcpu_info
    time: vcpu_time_info


class compat_arch_shared_info(Struct, size=28):
    """arch_shared_info; the wall clock's upper half is here."""

    max_pfn: u32
    pfn_to_mfn_frame_list_list: u32
    nmi_reason: u32
    p2m_cr3: u32
    p2m_vaddr: u32
    p2m_generation: u32
    wc_sec_hi: u32


class compat_shared_info(Struct, size=2344, pack=ALIGNMENT):
    """shared_info: 1024 ports, for a word of each array has 32 bits and `evtchn_pending_sel` selects 32 words."""

    vcpu_info: Annotated[tuple[compat_vcpu_info, ...], 32]
    evtchn_pending: Annotated[tuple[u32, ...], 32]
    evtchn_mask: Annotated[tuple[u32, ...], 32]
    wc_version: u32
    wc_sec: u32
    wc_nsec: u32
    arch: compat_arch_shared_info


class xen_callback(Struct, size=8):
    """Where Xen enters a 32-bit guest."""

    cs: u32
    eip: u32


class compat_callback_register(Struct, size=12):
    """callback_register."""

    type: u16  # CALLBACKTYPE_*
    flags: u16  # CALLBACKF_*
    address: xen_callback


DECLARED: Final[Mapping[type[Struct], type[Struct]]] = {
    trap_info: compat_trap_info,
    vcpu_guest_context: compat_vcpu_guest_context,
    arch_vcpu_info: compat_arch_vcpu_info,
    vcpu_info: compat_vcpu_info,
    arch_shared_info: compat_arch_shared_info,
    shared_info: compat_shared_info,
    callback_register: compat_callback_register,
}
"""What does not follow from the native declaration, or is needed by what does not."""

HEADERS: Final = (
    xen,
    event_channel,
    grant_table,
    memory,
    nmi,
    physdev,
    sched,
    vcpu,
    version,
    callback,
    hvm_op,
    blkif,
)
NOT_FOR_GUESTS: Final = frozenset({xen.xenctl_bitmap})
"""The toolstack's structures are the same in both widths: their handles always have 64 bits."""


@dataclass(frozen=True)
class CompatLayout:
    """The layout of one structure; `struct` has the fields where a 32-bit guest has them."""

    struct: type[Struct]

    @property
    def sizeof(self) -> int:
        """Bytes of one structure."""
        return self.struct.sizeof

    def unpack(self, buffer: Buffer, offset: int = 0) -> Any:
        """The record at `offset` in `buffer`; struct.error if the buffer ends before it."""
        return self.struct.unpack(buffer, offset)

    def pack(self, record: Struct) -> bytes:
        """The bytes of a record, native or read in this layout; struct.error if a number does not fit its field."""
        narrow: Struct = converted(record, self.struct)
        return narrow.pack()

    def pack_field(self, record: Struct, name: str) -> bytes:
        """The bytes of one field of a record; struct.error if the number does not fit."""
        narrow: Struct = converted(record, self.struct)
        return narrow.pack_field(name)

    def offsetof(self, path: str) -> int:
        """Offset in bytes of a field."""
        return self.struct.offsetof(path)


def converted(record: Any, hint: Any) -> Any:
    """A native value as one of the C type `hint`. TypeError: a union of another layout, whose arm in use nobody knows."""
    if get_origin(hint) is Annotated:
        kind, count = get_args(hint)[:2]
        if isinstance(count, int) and kind is not bytes:
            return tuple(converted(item, get_args(kind)[0]) for item in record)
        return record
    if isinstance(record, hint):
        return record
    if issubclass(hint, Union):
        raise TypeError(f"{type(record).__name__} cannot be written in 32 bits")
    return hint(**{name: converted(getattr(record, name), field) for name, field in hints_of(hint).items()})


def hints_of(struct: type[Struct]) -> dict[str, Any]:
    """The C types of a structure's fields, in order."""
    return inspect.get_annotations(struct, eval_str=True)


def narrowed(hint: Any, known: dict[type[Struct], type[Struct]]) -> Any:
    """The C type of a 32-bit guest's field; `known` gets the structures that it is made of."""
    if get_origin(hint) is not Annotated:
        return narrowed_struct(hint, known)
    kind, detail, *marks = get_args(hint)
    if WORD in marks:
        return i32 if detail == "<i8" else u32
    if isinstance(detail, int) and kind is not bytes:
        return Annotated[tuple[narrowed(get_args(kind)[0], known), ...], detail]  # type: ignore[misc]
    return hint


def narrowed_struct(struct: type[Struct], known: dict[type[Struct], type[Struct]]) -> type[Struct]:
    """A structure as a 32-bit guest has it: itself, if there is no difference."""
    if struct not in known:
        fields = {name: narrowed(hint, known) for name, hint in hints_of(struct).items()}
        body = {"__annotations__": fields, "__module__": __name__}
        base = Union if issubclass(struct, Union) else Struct
        pack = min(struct.pack_limit, ALIGNMENT)
        twin: type[Struct] = type(f"compat_{struct.__name__}", (base,), body, size=None, pack=pack)
        known[struct] = struct if twin.dtype == struct.dtype else twin
    return known[struct]


def compat_layouts(structs: Iterable[type[Struct]]) -> dict[type[Struct], CompatLayout]:
    """The layouts of those structures, and of what they consist of, that differ in 32 bits."""
    known = dict(DECLARED)
    for struct in structs:
        narrowed_struct(struct, known)
    return {native: CompatLayout(twin) for native, twin in known.items() if twin is not native}


def compat_struct(struct: type[Struct]) -> type[Struct]:
    """The structure as a 32-bit guest has it, with the native one's fields; itself, if there is no difference."""
    layout = compat_layouts([struct]).get(struct)
    return struct if layout is None else layout.struct


def declared_in(headers: Iterable[Any]) -> list[type[Struct]]:
    """The structures that modules declare, in order."""
    return [
        value
        for module in headers
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Struct) and value.__module__ == module.__name__
        if value not in NOT_FOR_GUESTS
    ]
