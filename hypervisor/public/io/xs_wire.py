"""Xenstore's wire protocol: message header and types, errors by name, the page shared with a domain.

A message is an xsd_sockmsg and `len` bytes. Source: Xen public/io/xs_wire.h.
"""

from enum import IntEnum, IntFlag
from typing import Annotated, Final

from hypervisor.public.errno import Errno
from hypervisor.public.layout import Struct, u32


class XenstoreMessage(IntEnum):
    """`type` of xsd_sockmsg."""

    XS_CONTROL = 0
    XS_DIRECTORY = 1
    XS_READ = 2
    XS_GET_PERMS = 3
    XS_WATCH = 4
    XS_UNWATCH = 5
    XS_TRANSACTION_START = 6
    XS_TRANSACTION_END = 7
    XS_INTRODUCE = 8
    XS_RELEASE = 9
    XS_GET_DOMAIN_PATH = 10
    XS_WRITE = 11
    XS_MKDIR = 12
    XS_RM = 13
    XS_SET_PERMS = 14
    XS_WATCH_EVENT = 15
    XS_ERROR = 16
    XS_IS_DOMAIN_INTRODUCED = 17
    XS_RESUME = 18
    XS_SET_TARGET = 19
    XS_RESET_WATCHES = 21
    XS_DIRECTORY_PART = 22
    XS_TYPE_COUNT = 23
    XS_INVALID = 0xFFFF


(
    XS_CONTROL, XS_DIRECTORY, XS_READ, XS_GET_PERMS, XS_WATCH, XS_UNWATCH, XS_TRANSACTION_START,
    XS_TRANSACTION_END, XS_INTRODUCE, XS_RELEASE, XS_GET_DOMAIN_PATH, XS_WRITE, XS_MKDIR, XS_RM,
    XS_SET_PERMS, XS_WATCH_EVENT, XS_ERROR, XS_IS_DOMAIN_INTRODUCED, XS_RESUME, XS_SET_TARGET,
    XS_RESET_WATCHES, XS_DIRECTORY_PART, XS_TYPE_COUNT, XS_INVALID,
) = XenstoreMessage.__members__.values()  # fmt: skip


class WatchField(IntEnum):
    """Index of each string in a watch event."""

    XS_WATCH_PATH = 0
    XS_WATCH_TOKEN = 1


XS_WATCH_PATH, XS_WATCH_TOKEN = WatchField.__members__.values()


class XenstoreFeature(IntFlag):
    """`server_features` of xenstore_domain_interface."""

    XENSTORE_SERVER_FEATURE_RECONNECTION = 1 << 0
    XENSTORE_SERVER_FEATURE_ERROR = 1 << 1


XENSTORE_SERVER_FEATURE_RECONNECTION, XENSTORE_SERVER_FEATURE_ERROR = XenstoreFeature.__members__.values()


class XenstoreConnection(IntEnum):
    """`connection` of xenstore_domain_interface."""

    XENSTORE_CONNECTED = 0
    XENSTORE_RECONNECT = 1


XENSTORE_CONNECTED, XENSTORE_RECONNECT = XenstoreConnection.__members__.values()


class XenstoreRingError(IntEnum):
    """`error` of xenstore_domain_interface."""

    XENSTORE_ERROR_NONE = 0
    XENSTORE_ERROR_COMM = 1
    XENSTORE_ERROR_RINGIDX = 2
    XENSTORE_ERROR_PROTO = 3


(
    XENSTORE_ERROR_NONE, XENSTORE_ERROR_COMM, XENSTORE_ERROR_RINGIDX, XENSTORE_ERROR_PROTO,
) = XenstoreRingError.__members__.values()  # fmt: skip

XENSTORE_RING_SIZE: Final = 1024
XENSTORE_PAYLOAD_MAX: Final = 4096  # bytes after the header
XENSTORE_ABS_PATH_MAX: Final = 3072
XENSTORE_REL_PATH_MAX: Final = 2048

XS_WRITE_NONE: Final = b"NONE"
XS_WRITE_CREATE: Final = b"CREATE"
XS_WRITE_CREATE_EXCL: Final = b"CREATE|EXCL"

xsd_errors: Final = (
    Errno.EINVAL,
    Errno.EACCES,
    Errno.EEXIST,
    Errno.EISDIR,
    Errno.ENOENT,
    Errno.ENOMEM,
    Errno.ENOSPC,
    Errno.EIO,
    Errno.ENOTEMPTY,
    Errno.ENOSYS,
    Errno.EROFS,
    Errno.EBUSY,
    Errno.EAGAIN,
    Errno.EISCONN,
    Errno.E2BIG,
    Errno.EPERM,
)
"""Errors that may be sent, as XS_ERROR with the name; libxenstore takes any other name for EINVAL."""


class xsd_sockmsg(Struct, size=16):
    """Header of every message."""

    type: u32  # XS_*
    req_id: u32  # chosen by the client, copied to the answer
    tx_id: u32  # transaction, 0: none
    len: u32  # bytes that follow


class xenstore_domain_interface(Struct, size=2076):
    """The page: two byte rings; counters run modulo 2^32, byte n of a ring is at n % XENSTORE_RING_SIZE."""

    req: Annotated[bytes, 1024]  # to the daemon
    rsp: Annotated[bytes, 1024]  # answers and watch events
    req_cons: u32  # daemon writes
    req_prod: u32  # guest writes
    rsp_cons: u32  # guest writes
    rsp_prod: u32  # daemon writes
    server_features: u32  # XENSTORE_SERVER_FEATURE_*
    connection: u32  # XENSTORE_CONNECTED or XENSTORE_RECONNECT
    error: u32  # XENSTORE_ERROR_*
