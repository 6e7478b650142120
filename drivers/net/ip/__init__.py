"""IPv4 for guests written in Python: ARP, ICMP echo, UDP and TCP, as state code that knows no sockets.

    stack.py      frames in, frames out; which datagram is whose
    arp.py        addresses of the network into addresses of the link
    ipv4.py       the header
    icmp.py       ping, both ways; "port unreachable"
    udp.py        datagrams by port
    tcp/          streams
    interface.py  the same for a guest's straight-line code, over its network interface

Everything that may take time is a callback; time itself comes from a `Clock`, which a Kernel is. What comes from
the network is a stranger's word: it is checked before it is used, and everything that is kept for it is bounded.
Not here: fragments (dropped), options, IGMP, path MTU discovery, SACK, IPv6.
"""
