"""Grant tables."""
