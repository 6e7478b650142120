"""Making a domain of Xen's stream (docs/save-and-restore.md).

    restore.py    the whole: a description ─► a new domain ─► its contents out of the stream ─► its devices
    contents.py   what PV and PVH domains' contents share
    pv.py         a PV domain's contents: which record says what
    pv_memory.py  its pages: given to it, filled, page tables translated
    pv_vcpus.py   its vCPUs' registers, start_info

The domain is made as any other is (making.py): everything or nothing.
"""
