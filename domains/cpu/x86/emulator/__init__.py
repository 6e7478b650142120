"""The emulated CPU: Unicorn from inside, for all kinds of guests.

Read in this order:
    1. the library and its state     unicorn_library, cpu_state, selfcheck, emulation
    2. code of ours inside it        machine_code, stop_stub, step_stub, interpose, atomic_locks, fetched_pages, twin_tlb
    3. floating point                interpose, float_unit, float_code, float_listing, host_float, fpu_image
    4. the CPU as a guest's          svm
"""
