"""Xen public/hvm/: of interest to PV tools only by its numbers."""
