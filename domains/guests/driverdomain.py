"""Driver domains: back ends of other domains' devices, in domains without any privilege.

Others name them: `vif = ["backend=netdom"]`, `disk = ["backend=diskdom,vdev=xvda,target=disk.img"]`. When one dies
its guests' devices are dead until it is there again, which its description's on_crash = "restart" sees to; Dom0 and everybody
else goes on.
"""

from collections.abc import Callable

from domains.kernel.guest import Guest
from domains.kernel.shutdown import await_shutdown
from drivers.block.back import BlockBack
from drivers.net.back import NetBack


class DriverDomain(Guest):
    """Serves until it is told to shut down."""

    def serve(self) -> Callable[[], None]:
        """Begin; what ends it."""
        raise NotImplementedError

    def main(self) -> None:
        """Serves until the domain is told to shut down."""
        stop = self.serve()
        await_shutdown(self.kernel)
        stop()


class NetworkBackend(DriverDomain):
    """Interfaces, and the bridges between them."""

    def serve(self) -> Callable[[], None]:
        """Starts the back end of network interfaces; what is returned stops it."""
        back = NetBack(self.kernel)
        back.start()
        print("serving network interfaces")
        return back.stop


class BlockBackend(DriverDomain):
    """Disks: files and block devices of the host, which stand for the hardware that a driver domain is given."""

    def serve(self) -> Callable[[], None]:
        """Starts the back end of disks; what is returned stops it."""
        back = BlockBack(self.kernel)
        back.start()
        print("serving disks")
        return back.stop
