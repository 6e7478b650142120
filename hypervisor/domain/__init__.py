"""Domains and vCPUs: their parts, life cycle and control operations."""
