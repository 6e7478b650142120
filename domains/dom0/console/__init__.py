"""consoled: the back end of every domain's PV console, and who is looking at it."""
