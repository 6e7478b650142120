"""A fleet's decisions: which domain runs on which host, what becomes of it when a host is lost, and who may run it meanwhile.

    wanted.py      what a host has and what a domain wants, as data
    order.py       hosts with the same labels, kept in order of load and of free memory
    placement.py   which domain is where, and where one more goes
    lease.py       a host runs domains only while its lease lasts: both ends, with clocks as data
    starting.py    domains start in order, and again where that fails
    control.py     the fleet's head: hosts come, renew, fall silent and are drained; domains move and start again
    simulation.py  all of that with hosts that are played, in virtual time

State code: events go in with the time, actions come out. Whoever performs them (domains/xenctl/fleet) has the sockets, the
processes and the clocks. See docs/fleet.md.
"""
