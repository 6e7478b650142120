"""A simulator of scheduling: the schedulers of a machine and its Slices, in virtual time, with domains that a file describes.

    workload.py   what a file may say, and reading it: every mistake with its place
    tasks.py      what a vCPU does: compute, sleep and work, work every so often, dodge ticks, yield
    simulate.py   a workload under one scheduler → what came of it
    report.py     that as a table, as data, and as charts
    command.py    what the command line asks for

The code under test is hypervisor/sched/ itself: nothing of a policy is written a second time here.
"""
