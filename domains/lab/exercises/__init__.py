"""Exercises: a file with a hole, and checks that tell what is missing.

fault.c          the page-fault handler of the kernel under test      page_fault
validate.py      which entries of an L1 table Xen lets a guest make    validate_l1
"""
