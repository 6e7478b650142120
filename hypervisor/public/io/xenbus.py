"""State of each half of a split driver, its key `state` in xenstore. Source: Xen public/io/xenbus.h."""

from enum import IntEnum


class XenbusState(IntEnum):
    """Written in decimal."""

    XenbusStateUnknown = 0
    XenbusStateInitialising = 1
    XenbusStateInitWait = 2
    XenbusStateInitialised = 3
    XenbusStateConnected = 4
    XenbusStateClosing = 5
    XenbusStateClosed = 6
    XenbusStateReconfiguring = 7
    XenbusStateReconfigured = 8


(
    XenbusStateUnknown, XenbusStateInitialising, XenbusStateInitWait, XenbusStateInitialised,
    XenbusStateConnected, XenbusStateClosing, XenbusStateClosed, XenbusStateReconfiguring,
    XenbusStateReconfigured,
) = XenbusState.__members__.values()  # fmt: skip
