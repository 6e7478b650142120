"""A domain's share of the machine: extents of 1024 frames of its own memfd, and which of their frames are free."""


class Extents:
    """Extents and free frames of one domain's memfd."""
