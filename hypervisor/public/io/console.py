"""The console page of a domain: two byte rings. Source: Xen public/io/console.h."""

from typing import Annotated, Final

from hypervisor.public.layout import Struct, u32

IN_SIZE: Final = 1024
"""Bytes of the ring from the daemon to the guest."""
OUT_SIZE: Final = 2048
"""Bytes of the ring from the guest to the daemon."""


class xencons_interface(Struct, size=3088):
    """`in` and `out` as the guest sees them; counters run modulo 2^32, byte n is at n % length."""

    in_: Annotated[bytes, IN_SIZE]  # daemon to guest
    out: Annotated[bytes, OUT_SIZE]  # guest to daemon
    in_cons: u32  # guest writes
    in_prod: u32  # daemon writes
    out_cons: u32  # daemon writes
    out_prod: u32  # guest writes
