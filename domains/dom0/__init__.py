"""Dom0: xenstored, toolstack, consoles."""
