"""The full memory barrier, for whoever tells a neighbour something in shared memory and then looks what it has told.

x86 keeps stores in order and loads in order; only a store and a later load may pass each other in the store buffer
(Intel SDM vol. 3A §8.2.3.4).
"""

import threading


def full_barrier() -> None:
    """Earlier stores are visible before later loads: taking a free lock is a locked instruction."""
    with threading.Lock():
        pass
