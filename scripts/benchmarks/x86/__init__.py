"""What the x86 engine costs: a guest in C that is measured, the same operations of a process of the host, and Linux."""
