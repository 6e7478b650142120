"""Building a PV domain: where its image, tables and start_info lie, and what is written there. For Dom0 and for the toolstack."""
