"""xenstored: the store that domains share, as state code (no sockets) with two thin transports.

Read in this order, each file standing on the ones before it:

    errors       what can go wrong, in the store's own words
    path         names and paths                              perms   who may read, write, own
    node, store  the tree: a flat map of immutable nodes      quota   what one domain may use up
    tree         WRITE, MKDIR, RM, SET_PERMS as planned sets of changes
    transaction  an overlay over the store; conflicts         watch   who is told about a change
    outgoing     bytes on their way to one client             ratelimit  writes that disturb transactions
    connection   one client: framing, transactions, watches   domain  what is known about one domid
    requests, control, dispatch   one table from XS_* to handler; the place where errors become errno names
    server       Xenstored: the whole, fed with bytes
    snapshot     the store as data, and back
    socket, ring the unix socket for Xen's own clients; the shared page of a guest

Modelled on Xen's `tools/xenstored` and `docs/misc/xenstore.txt` (protocol of Xen 4.17).
"""
