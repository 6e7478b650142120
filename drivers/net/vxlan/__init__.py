"""One layer 2 over several hosts: a bridge's port that speaks VXLAN (RFC 7348) by ordinary UDP sockets, which takes no privilege.

    guest ─ switch ┬─ peer 10.0.0.2 ┐  overlay.py: a port of the switch for each      udp.py: the sockets
                   ├─ peer 10.0.0.3 ┤  peer; what goes is cut, summed, wrapped  ────► one receives, several send
                   └─ guest         ┘  vtep.py: whose a packet is that came     ◄────
                                       segment.py: a network's peers, and its counts

Each peer is an *isolated* port of the switch: what comes from one peer goes to guests and never to another peer (split
horizon), for every host sends to all others itself. So the bridge's table, with its ageing and a share for each port, is the
table of which station is behind which host, too; and a station that moves to another host is found there with the first
frame it sends.

Words of RFC 7348: a *VTEP* is the end of a tunnel, here a machine; a *VXLAN segment* is one network, known by its 24-bit VNI.

Deliberately not here: multicast to find peers (they are told), encryption, fragments, VLANs of their own.
"""
