"""A report for its reader: on the terminal, as JSON."""
