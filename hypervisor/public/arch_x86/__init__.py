"""Xen public/arch-x86/: what is particular to x86."""
