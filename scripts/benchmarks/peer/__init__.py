"""Xenoscope beside real Xen, which runs in QEMU without acceleration on the same host: the same guests do the same on both.

A family of figures starts QEMU and a machine of ours and lets both take turns; QEMU stands still while it is not its turn.
"""
