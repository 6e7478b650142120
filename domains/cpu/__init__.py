"""What runs a guest: the gate to the core, the Python CPU, the x86 engine."""
