"""Live migration: what two machines agree upon, and how a domain's memory goes over while it runs."""
