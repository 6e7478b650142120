"""The first 64 bytes of every ring that the halves of a split driver share.

    0      req_prod    frontend writes: requests so far, modulo 2^32
    4      req_event   backend writes: notify me when req_prod passes this
    8      rsp_prod    backend writes: responses so far, modulo 2^32
    12     rsp_event   frontend writes: notify me when rsp_prod passes this
    64     ring        slots: as many as fit into the page, rounded down to a power of 2;
                       a slot holds a request, then its response

Counters run on without wrapping at the ring's size; slot n is `ring[n % slots]`.
Source: Xen public/io/ring.h.
"""

from typing import Annotated

from hypervisor.public.layout import Struct, u32


class sring(Struct, size=64):
    """`struct <name>_sring` of DEFINE_RING_TYPES, without its slots."""

    req_prod: u32
    req_event: u32
    rsp_prod: u32
    rsp_event: u32
    pvt: Annotated[bytes, 4]  # one half's own
    pad: Annotated[bytes, 44]
