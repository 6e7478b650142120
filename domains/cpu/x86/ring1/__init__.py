"""Ring 1, trap and emulate: a 32-bit kernel that knows of no hypervisor, as VMware's ESX and Workstation ran it.

The kernel believes itself in ring 0 and runs in ring 1, its programs in ring 3, under shadow tables. What a CPU does by IDT, TSS
and control registers is done here, on registers that are kept here; the CPU's own are the monitor's, and lie where 32-bit code
does not reach: the CPU is in long mode, the guest in its compatibility mode.

    #GP         a privileged instruction: emulated       hardware refuses it outside ring 0
    call-out    a sensitive one, that does not trap      the translator has put a trap in its place
    #PF, other  hidden from the guest, or its own        delivered by its IDT

Read in this order:
    1. the machine and its CPU   board, state, vcpu; paging, descriptor_table, segments
    2. exits                     exits, exception, delivery; privileged, ports, sensitive, transfers
    3. a slice                   engine, translator
No domain is of this kind: it is the laboratory's.
"""
