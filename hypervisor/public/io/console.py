"""The console page of a domain: two byte rings. Source: Xen public/io/console.h."""

from typing import Annotated

from hypervisor.public.layout import Struct, u32


class xencons_interface(Struct, size=3088):
    """`in` and `out` as the guest sees them; counters run modulo 2^32, byte n is at n % length."""

    in_: Annotated[bytes, 1024]  # daemon to guest
    out: Annotated[bytes, 2048]  # guest to daemon
    in_cons: u32  # guest writes
    in_prod: u32  # daemon writes
    out_cons: u32  # daemon writes
    out_prod: u32  # guest writes
