"""From a message to a reply: the table of operations, and the one place where refusals become errno names."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from domains.dom0.xenstore import errors
from domains.dom0.xenstore import requests as handlers
from domains.dom0.xenstore.connection import Connection
from domains.dom0.xenstore.control import do_control
from domains.dom0.xenstore.outgoing import Outstanding
from domains.dom0.xenstore.requests import Request, StoreServer
from domains.dom0.xenstore.transaction import Transaction
from hypervisor.public.errno import Errno
from hypervisor.public.io import xs_wire
from hypervisor.public.io.xs_wire import XENSTORE_PAYLOAD_MAX, XS_ERROR, xsd_sockmsg


class Operation(NamedTuple):
    """`privileged`: for the control domain only. `transactional`: the message's transaction id counts."""

    handler: Callable[[Request], bytes]
    privileged: bool = False
    transactional: bool = True


OPERATIONS: Final[Mapping[int, Operation]] = {
    xs_wire.XS_CONTROL: Operation(do_control, privileged=True),
    xs_wire.XS_DIRECTORY: Operation(handlers.do_directory),
    xs_wire.XS_READ: Operation(handlers.do_read),
    xs_wire.XS_GET_PERMS: Operation(handlers.do_get_perms),
    xs_wire.XS_WATCH: Operation(handlers.do_watch, transactional=False),
    xs_wire.XS_UNWATCH: Operation(handlers.do_unwatch, transactional=False),
    xs_wire.XS_TRANSACTION_START: Operation(handlers.do_transaction_start),
    xs_wire.XS_TRANSACTION_END: Operation(handlers.do_transaction_end),
    xs_wire.XS_INTRODUCE: Operation(handlers.do_introduce, privileged=True),
    xs_wire.XS_RELEASE: Operation(handlers.do_release, privileged=True),
    xs_wire.XS_GET_DOMAIN_PATH: Operation(handlers.do_get_domain_path),
    xs_wire.XS_WRITE: Operation(handlers.do_write),
    xs_wire.XS_MKDIR: Operation(handlers.do_mkdir),
    xs_wire.XS_RM: Operation(handlers.do_rm),
    xs_wire.XS_SET_PERMS: Operation(handlers.do_set_perms),
    xs_wire.XS_IS_DOMAIN_INTRODUCED: Operation(handlers.do_is_domain_introduced, privileged=True),
    xs_wire.XS_RESUME: Operation(handlers.do_resume, privileged=True),
    xs_wire.XS_SET_TARGET: Operation(handlers.do_set_target, privileged=True),
    xs_wire.XS_RESET_WATCHES: Operation(handlers.do_reset_watches),
    xs_wire.XS_DIRECTORY_PART: Operation(handlers.do_directory_part),
}

ERRNO: Final[Mapping[type[errors.StoreError], Errno]] = {
    errors.InvalidRequest: Errno.EINVAL,
    errors.AccessDenied: Errno.EACCES,
    errors.NoSuchNode: Errno.ENOENT,
    errors.NoSuchTransaction: Errno.ENOENT,
    errors.NoSuchWatch: Errno.ENOENT,
    errors.NoSuchDomain: Errno.ENOENT,
    errors.CannotConnect: Errno.EIO,
    errors.AlreadyWatched: Errno.EEXIST,
    errors.NestedTransaction: Errno.EBUSY,
    errors.OwnerChange: Errno.EPERM,
    errors.QuotaExceeded: Errno.ENOSPC,
    errors.MemoryExceeded: Errno.ENOMEM,
    errors.TransactionFailed: Errno.ENOMEM,
    errors.Conflict: Errno.EAGAIN,
    errors.ReplyTooLong: Errno.E2BIG,
    errors.UnknownOperation: Errno.ENOSYS,
}


def dispatch(
    xenstored: StoreServer, connection: Connection, header: xsd_sockmsg, payload: bytes, cause: Outstanding
) -> None:
    """Serve one request: every one gets exactly one reply, an ERROR with the errno's name if it was
    refused."""
    request = Request(xenstored, connection, payload, None, header.tx_id, cause)
    kind = header.type
    cause.get()
    try:
        reply = _perform(request, kind)
    except errors.StoreError as error:
        kind, reply = XS_ERROR, ERRNO[type(error)].name.encode() + b"\0"
    connection.send_reply(header, kind, reply, cause)
    if request.first_event:
        connection.send_event(request.first_event, request.first_event.path, None)
    cause.put()


def _perform(request: Request, kind: int) -> bytes:
    operation = OPERATIONS.get(kind)
    if operation is None:
        raise errors.UnknownOperation(kind)
    if operation.privileged and not request.connection.domain.privileged:
        raise errors.AccessDenied(kind)
    if operation.transactional:
        request.transaction = _transaction(request.connection, request.transaction_id)
    reply = operation.handler(request)
    if len(reply) > XENSTORE_PAYLOAD_MAX:
        raise errors.ReplyTooLong
    return reply


def _transaction(connection: Connection, number: int) -> Transaction | None:
    if number == 0:
        return None
    if number not in connection.transactions:
        raise errors.NoSuchTransaction(number)
    return connection.transactions[number]
