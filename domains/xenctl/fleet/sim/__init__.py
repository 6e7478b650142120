"""A fleet in virtual time (docs/fleet.md).

    file.py     what a file may say, and reading it: every mistake with its place
    report.py   what came of it, as tables, as data, and as charts
    command.py  what the command line asks for

What is simulated is domains/fleet: nothing of the placement, the leases or the restart is written a second time.
"""
