"""The x86-64 engine: guest code on Unicorn, and Xen's entry code for one vCPU in Python (docs/x86.md).

    run ─► engine ─► emu_start: guest code ──────────────┐
             ▲                                           │ an exit: one of Unicorn's callbacks
             │ the slice is over (stop_stub)             ▼
             │                                         hooks
             │        ┌──────────────┬──────────────┬────┴──────────┬──────────────┐
             │     syscall       exceptions     invalid_op        cpuid          rdtsc
             │        │              │
             │   hypercall ─► core   ├─ page_fault ─► ptwr ─► core
             │        │              └─ privileged ─► control_registers, debug_registers, msr, io_ports, pit
             │     effects           │
             └── upcall ◄────────────┴─► bounce: a frame on the guest's stack;  back: iret

Read in this order:
    1. the CPU and its guest     registers, vcpu, mode and pv64_mode, paging and direct_paging, segments, context, guest_kinds
    2. a slice                   engine, hooks, upcall, effects
    3. exits                     syscall, local_hypercalls, constant_answers; exceptions, page_fault, ptwr; privileged, decode and
                                 what they use; bounce, iret, crash
    4. Unicorn from inside       unicorn_library, cpu_state, selfcheck; machine_code, stop_stub, step_stub, breakpoints;
                                 interpose, float_unit, float_code, float_listing, fpu_image
"""
