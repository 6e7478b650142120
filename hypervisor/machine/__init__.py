"""The emulated hardware: machine frames, page-table format, clock, trace."""
