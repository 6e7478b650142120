"""Xen public/xsm/: security modules."""
