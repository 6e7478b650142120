"""The hypervisor: the core process, its state machines, and the public ABI that guests and tools see."""
