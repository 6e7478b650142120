"""From hypercall number to handler; arguments decoded once from guest memory."""
