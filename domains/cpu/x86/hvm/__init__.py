"""Xen's entry code for HVM guests (PVH): little, for the CPU does most of it by itself.

    run ─► engine ─► emu_start ─┬► an exit: exits ─► hypercalls, msr, mmio and lapic; cpuid
                                └► no exit, machine code: stubs, listing

Read in this order:
    1. the CPU and its guest     vcpu, mode, context, kinds; paging, nested_paging, native_paging
    2. a slice                   engine, stubs, listing, effects
    3. exits                     exits, hypercalls, msr, cpuid, mmio, lapic, report
    4. shadow paging             pmap, shadow_tables, shadow_space, shadow_controls, shadow_paging, shadow_exits
"""
