"""Split drivers, the ring and the xenbus state machine."""
