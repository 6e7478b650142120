"""What can go wrong in the store. `dispatch.ERRNO` alone says which errno name a client sees for each."""


class StoreError(Exception):
    """A request that is refused and has changed nothing."""


class InvalidRequest(StoreError):
    """The request's payload, a path, a domid or a permission is malformed."""


class AccessDenied(StoreError):
    """The node's permissions (or those of its nearest existing ancestor) do not allow this."""


class NoSuchNode(StoreError):
    """The node does not exist, and the client may know that."""


class NoSuchTransaction(StoreError):
    """The transaction id is not one of this connection's open transactions."""


class NoSuchWatch(StoreError):
    """This connection has no watch with that path and token."""


class NoSuchDomain(StoreError):
    """The domain is not introduced, or does not exist."""


class CannotConnect(StoreError):
    """The toolstack could not map the domain's ring or bind its event channel."""


class AlreadyWatched(StoreError):
    """This connection has a watch with that path and token already."""


class NestedTransaction(StoreError):
    """A transaction cannot be started inside another one."""


class OwnerChange(StoreError):
    """Only the control domain gives a node another owner (rule S1)."""


class QuotaExceeded(StoreError):
    """A count or size limit of rule S2."""


class MemoryExceeded(StoreError):
    """The limit on a domain's total memory in the store (rule S2)."""


class TransactionFailed(StoreError):
    """The transaction ran into a limit before and can only be given up."""


class Conflict(StoreError):
    """Something the transaction has looked at was changed by someone else."""


class ReplyTooLong(StoreError):
    """The reply would not fit into one message (rule S4)."""


class UnknownOperation(StoreError):
    """There is no such request type."""
