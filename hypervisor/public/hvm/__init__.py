"""Xen public/hvm/: guests whose CPU is the real one, under a second translation."""
