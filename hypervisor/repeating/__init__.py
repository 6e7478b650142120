"""A machine that repeats itself: the core's loop with one vCPU at a time on virtual time (docs/determinism.md)."""
