"""What runs on the hypervisor: CPUs, the Python kernel, Dom0, guests and xenctl."""
