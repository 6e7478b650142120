"""Key `protocol` of a frontend: layout of its ring. Source: Xen public/io/protocols.h."""

from typing import Final

XEN_IO_PROTO_ABI_X86_32: Final = "x86_32-abi"
XEN_IO_PROTO_ABI_X86_64: Final = "x86_64-abi"
XEN_IO_PROTO_ABI_ARM: Final = "arm-abi"
XEN_IO_PROTO_ABI_NATIVE: Final = XEN_IO_PROTO_ABI_X86_64
