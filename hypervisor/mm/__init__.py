"""Memory management: whose each frame is, what it is used as, and that no page table says what it may not say.

Read in this order. Each file builds on those above it.

    layout            Xen's own frame numbers and addresses
    frame_table       the record of each frame: owner, references, type, uses; machine/frame_types: what processes may read of it
    contents          the one file that reads and writes frames themselves; machine/entries says which bits an entry may have
    tables            the core's own copy of every page table in use
    extents, m2p      where a domain's frames lie; which number the guest has for each
    domain_memory     what is known of a domain and of each of its vCPUs: plain state
    allocator         frames are given to domains, and come back
    budget            how much of its work a hypercall may do at once

    page_types ◄────► validate, devalidate     a frame becomes a page table, and stops being one: begin here if you read
        ▲             linear, xen_slots        one file only; type_references says how the two halves call each other
        │             descriptor_rules
        │
    ┌───┴────────┬───────────────┬───────────────────┐
    update       pins            base_pointers       descriptors      what a guest does with tables: change an entry,
    update_batch                                                      pin, load CR3, load a GDT or LDT
    posted            the same, when the guest's process has done it already
    update_requests, va_mapping, grant_entries                        the ways to name the entry that is changed

    walk, guest_memory      from a guest's virtual address to the frame, and copies between guest and core
    reservation             memory_op: more frames, fewer frames, other frames
    relinquish              the end of a domain
    mmu                     all of these wired together

Two counts decide everything. A *general reference* keeps a frame from being freed; a *type reference* keeps its type from
changing, and each is covered by a general one. docs/memory.md is the tour; the rules (F1, P4 …) are in docs/invariants.md.
"""
