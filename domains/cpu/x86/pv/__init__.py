"""Xen's entry code for PV guests of both widths.

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
    1. the CPU and its guest     vcpu, pv_state, mode and pv64_mode; direct_paging; segments, context, kinds
    2. a slice                   engine, hooks, upcall, effects; turns: several vCPUs
    3. exits                     syscall, local_hypercalls, constant_answers, posted_calls and posting; exceptions, page_fault,
                                 ptwr; privileged and what it uses; bounce, iret, crash; breakpoints
    4. 32-bit guests             kinds says which parts of theirs take whose place: pv32_mode, compat_paging, compat_segments,
                                 pv32_context, pv32_calls, pv32_bounce, pv32_iret
"""
