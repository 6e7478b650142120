"""The x86-64 PV engine: guest code on Unicorn, and Xen's entry code for one vCPU in Python."""
