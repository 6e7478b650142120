"""The x86 engine: guest code on Unicorn, and Xen's entry code in Python (docs/x86.md, docs/ways-to-virtualize.md).

    ring1             a monitor for kernels that know of no hypervisor; it stands on hvm's shadow tables
    hvm  │  pv        Xen's entry code for guests with page tables and exceptions of their own (PVH), and for PV guests;
         │            neither knows the other
    (here)            what both have: registers, the seam to a way of paging (paging, machine_paging), effects that mean the same
                      (common_effects, raised), the CPU that guests see (cpuid, msr), the decoder of instructions (decode)
    emulator          Unicorn from inside: its state, its self-check, and what it lacks

Each of these packages says in which order to read it.
"""
