"""Tests of the public ABI."""
