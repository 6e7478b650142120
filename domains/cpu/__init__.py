"""What runs a guest: the gate to the core, a CPU whose guest kernel is Python, and an engine for x86 code.

    a domain's process (process.py)
      ├─ gate.py              the one way to the core: requests, replies, the mailbox; what to map
      ├─ python_cpu.py        a guest kernel in Python: traps, hypercalls, events, life
      │    ├─ python_memory.py   its memory, through page tables (page_walk.py)
      │    ├─ effects.py         what replies do to it
      │    └─ local_calls.py     hypercalls that need no core
      └─ x86/                 a guest kernel in x86 code

Read in this order: process, gate, page_walk, python_memory, python_cpu, traps, effects, event_words (pending bits and upcalls),
local_calls, clock, confinement (what Linux still does for such a process); then x86.
"""
