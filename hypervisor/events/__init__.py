"""Event channels."""
