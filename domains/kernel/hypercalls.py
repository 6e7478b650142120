"""Hypercall stubs: one method per hypercall, arguments as public Structs, errors as XenError."""

from __future__ import annotations


class Hypercalls:
    """Marshals arguments into guest memory, enters Xen, takes results back out."""
