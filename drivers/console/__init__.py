"""The PV console ring."""
