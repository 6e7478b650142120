"""Xen's HVM headers for x86: what a guest is started with, and its registers when it is saved."""
