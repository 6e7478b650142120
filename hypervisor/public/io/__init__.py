"""Xen public/io/: what the two halves of a split driver share."""
