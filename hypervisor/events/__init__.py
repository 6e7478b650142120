"""Event channels (rules E1–E13). A state machine per domain that knows no sockets and no guest memory.

Read in this order: `channel.py`, one port and its states; `port_table.py`, a domain's ports; `delivery.py`, where an event goes;
`event_channels.py`, what binds and closes a port; `virq.py`, which domain gets the global VIRQs.
"""
