"""TCP (RFC 9293): streams of bytes over datagrams that may be lost, doubled or late.

    segment.py     the header
    sender.py      what was written and is not acknowledged: windows, congestion, retransmission
    receiver.py    what has arrived: order, gaps, the window that is offered
    connection.py  one connection: its states, and when which segment goes out
    ports.py       all connections of a host, and who listens

Inside, sequence numbers are unbounded: the 32 bits of the wire are taken as those nearest to what is expected, so
that comparisons are plain. Options: MSS and window scale. Congestion: RFC 5681 with NewReno's recovery (RFC 6582).
"""
