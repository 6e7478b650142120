"""Xen's public ABI (4.17, x86-64 PV): numbers and structures, nothing else.

One module per public header, at the header's own path: `public/grant_table.h` is `public/grant_table.py`,
`public/arch-x86/xen.h` is `public/arch_x86/xen.py`. Every name is Xen's, so that grep finds it on both sides.
Modules here import only each other and numpy. The tests compare every value and layout with the C headers.
`domctl.h` is too long for one file: import all of it from `public/domctl.py`, wherever it is declared.

Structures
    class gnttab_map_grant_ref(Struct, size=32):     # a wrong size fails the import
        host_addr: u64
        ...

    gnttab_map_grant_ref.unpack(buffer, offset=0)    -> a record with typed attributes (one `struct` call)
    gnttab_map_grant_ref(flags=2, dom=DomId(1))      -> a record; what is not named is zero
    record.pack()                                    -> its bytes
    record.pack_field("status")                      -> the bytes of that field alone
    gnttab_map_grant_ref.sizeof                      and .offsetof("status"); dots reach into members
    gnttab_map_grant_ref.array(buffer, count, offset=0)  -> numpy structured view, no copy
    gnttab_map_grant_ref.dtype                       explicit little-endian numpy dtype with C's offsets

    A buffer is bytes, bytearray or memoryview. `pack=4` after `size=` limits alignment, as `#pragma pack` does.
    `sizeof` and `offsetof` are C's words, for `size` and `offset` are names of Xen's fields. Arrays are
    tuples, arrays of char or u8 are bytes, nested structures are records. A field whose C name is a Python
    keyword ends in an underscore (`in_`).

Unions
    class mmuext_op_arg1(Union, size=8): ...         # all arms at offset 0
    op.arg1.mfn, op.arg1.linear_addr                 # decoded from the union's bytes when read
    mmuext_op(cmd=..., arg1=mmuext_op_arg1(mfn=5))   # a constructor names one arm
    domctl.u.getdomaininfo = info                    # assigning an arm replaces the bytes;
                                                     # changing what was read from an arm does not

    A union (or structure) without a name in C is named after its structure and member.

Numbers
    class GrantTableOp(IntEnum):                     # a family; IntFlag where values are or-ed
        GNTTABOP_map_grant_ref = 0
    (GNTTABOP_map_grant_ref, ...) = GrantTableOp.__members__.values()

    so `from hypervisor.public.grant_table import GNTTABOP_copy` and `GrantTableOp(5).name` both work. Single
    values are `NAME: Final = ...`. Python mangles names that begin with two underscores, so hypercalls are
    `Hypercall.mmu_update` for `__HYPERVISOR_mmu_update`, without a name at module level; likewise
    `Errno.EINVAL` for XEN_EINVAL. Operators on IntFlag are slow: in a hot path take `int(...)` once.

Distinct numbers
    `types.py` has the NewTypes (Mfn, Pfn, VAddr, MAddr, DomId, Port, GrantRef) and C's typedefs for fields
    (`domid_t`, `evtchn_port_t`, `grant_ref_t`, `XEN_GUEST_HANDLE`): a field declared `domid_t` is a DomId.
"""
