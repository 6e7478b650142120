"""The laboratory: one kernel, run by Xen, by the monitors that Xen argues with, and by the bare CPU; and experiments with it.

    kernel/          the kernel under test, in C: kernel.c, fault.c, programs.S for all; below them bare.c, or xen.c and front.c
    systems/         what runs it, and counts: native, nested, vtx, esx, workstation, xen; Dom0 and its back ends
    experiments/     one file each: a claim, what is run, what must be seen
    output/          a report on the terminal, as data, as a picture, as a page
    exercises/       two files with a hole, and checks

Read in this order:
    1. the kernel         kernel/kernel.h, kernel.c, fault.c, pager.c, bare.c, xen.c, front.c, programs.S; image. Kernels that try
                          instructions: probe.c, probes.S; xen64.c, xen64.S
    2. what runs it       board, systems/system, scatter, unported, ports, ring0, esx, host_process, world_switch, workstation;
                          walks; in_process, systems/gate, python_domain, back_ends, dom0, xen, driver_domain; paged
    3. what is seen       trace, compare, by_cause, probes, cpu_log, table_walk, page_sequence, played_guest, neighbours, costs,
                          report
    4. an experiment      experiments/page_fault, catalogue
    5. what is shown      output/data, terminal, playback, stepper, picture, page, pages/; wanted, command, parallel, command_all

Counts are exact: nothing but the guest moves time, so each run is the same.
"""
