"""Machines inside other people's tests: a pytest plugin (docs/testing-guests.md).

plugin.py    options, fixtures and hooks: what pytest loads. It imports nothing of the project until a fixture is used
watch.py     what a test must hear of at once, wherever it is
machine.py   a machine, as a fixture gives it      domain.py   a guest      topology.py   a topology
snapshot.py  a guest that boots once, and goes on in many tests
listener.py  the thread that hears what guests say, and how they end
store.py     xenstore, as a test reads and writes it
keeping.py   asks for machines; keeper.py is the process that has them, and outlives pytest by nothing but their end
evidence.py  what a failed test is told of its machines

pytest ──SEQPACKET──► keeper ──fork──► supervisor of a machine ──► core, Dom0, guests
   └── pidfd ──────────►│ ends them when pytest is gone, however; dies the keeper, Linux tells the supervisors (PDEATHSIG)
"""
