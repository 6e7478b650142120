"""Writing a domain as Xen's stream (docs/save-and-restore.md).

save.py       the whole: suspend ─► write ─► destroy, or let it go on
pv.py         of a PV domain: pages, shared_info, vCPUs
pv_memory.py  which frames a PV domain has, and what they are used as
"""
