"""The systems that experiments compare: each runs the same kernel and counts what it costs.

native       alone on the emulated CPU
nested       ring 0 under nested page tables: hardware assistance with extended page tables
vtx          ring 0 under shadow page tables: hardware assistance of the first generation
esx          ring 1, trap and emulate, shadow tables, traces
workstation  the same monitor inside a process of a host, which does the I/O
xen          ported: ring 1, page tables checked by the hypervisor
"""
