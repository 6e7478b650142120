"""Argo, messages that Xen copies between domains: numbers only. Source: Xen public/argo.h."""

from enum import IntEnum


class ArgoOp(IntEnum):
    """First argument of argo_op."""

    XEN_ARGO_OP_register_ring = 1
    XEN_ARGO_OP_unregister_ring = 2
    XEN_ARGO_OP_sendv = 3
    XEN_ARGO_OP_notify = 4


(
    XEN_ARGO_OP_register_ring, XEN_ARGO_OP_unregister_ring, XEN_ARGO_OP_sendv, XEN_ARGO_OP_notify,
) = ArgoOp.__members__.values()  # fmt: skip
