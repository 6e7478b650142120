"""The PV kernel library for guests written in Python."""
