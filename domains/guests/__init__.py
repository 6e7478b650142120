"""Example guests."""
