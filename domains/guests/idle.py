"""A guest that does nothing until it is told to shut down: what a domain costs by itself.

`xenctl shutdown` ends it, as it ends every PV guest that heeds it.
"""

from domains.kernel.guest import Guest
from domains.kernel.shutdown import await_shutdown


class Idle(Guest):
    """The guest."""

    def main(self) -> None:
        """Waits for `xenctl shutdown` or `reboot`."""
        print("idle")
        await_shutdown(self.kernel)
        print("told to shut down")
