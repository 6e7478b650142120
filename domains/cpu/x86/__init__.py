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

An HVM guest has an entry code of its own; with nested paging its exceptions and page tables never get there:

    hvm_run ─► hvm_engine ─► emu_start ─► an exit: hvm_exits ─► hvm_hypercalls, hvm_msr, mmio and lapic; cpuid: hvm_cpuid
                                └► no exit, machine code: hvm_stubs, hvm_listing

Read in this order:
    1. the CPU and its guest     registers, vcpu, mode and pv64_mode; paging, machine_paging, direct_paging;
                                 segments, context, guest_kinds
    2. a slice                   engine, hooks, upcall, effects
    3. exits                     syscall, local_hypercalls, constant_answers; exceptions, page_fault, ptwr; privileged, decode and
                                 what they use; bounce, iret, crash
    4. Unicorn from inside       unicorn_library, cpu_state, selfcheck; machine_code, stop_stub, step_stub, breakpoints;
                                 interpose, float_unit, float_code, float_listing, fpu_image
    5. HVM guests                svm, hvm_paging, nested_paging, hvm_vcpu, hvm_mode, hvm_context, hvm_engine, hvm_stubs,
                                 hvm_exits and the others that begin with hvm_; raised
    6. shadow paging             pmap, shadow_tables, shadow_space, shadow_controls, shadow_paging, shadow_exits
"""
