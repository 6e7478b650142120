"""Grants: a domain lets another one use a frame of its own.

Read in this order.

    shared_entries    the granter's entries, in the frames that it shares with Xen; versions 1 and 2
    active            the core's own record of an entry in use: only it counts then
    maptrack          a mapper's handles
    grant_table       one domain's table: what it grants (pin, release) and what it uses of others
    status            how one operation of a batch is refused

    mapping           map, unmap, unmap and replace; what is left when a mapper dies
    copying           bytes from one frame to another
    transfer          a frame's content changes hands
    versions          version 1 becomes version 2, and back
    cache_flush       who may write back which frame's cache lines

    granter                          core                                 mapper
    ┌──────────────┐   first use    ┌───────────────────────┐   handle   ┌──────────┐
    │ shared entry ├───────────────►│ Active: user, frame,  │◄───────────┤ Maptrack │
    │ flags ◄──────┼─ reading, ─────┤ pin counters          │            └──────────┘
    └──────────────┘  writing       └───────────────────────┘

docs/grants.md is the tour.
"""
