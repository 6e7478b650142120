"""Driver domains: back ends of other domains' devices, in domains without any privilege.

Others name them: `vif = ["backend=netdom"]`, `disk = ["backend=diskdom,vdev=xvda,target=disk.img"]`. When one dies
its guests' devices are dead until it is there again, which its description's on_crash = "restart" sees to; Dom0 and everybody
else goes on.
"""

from collections.abc import Callable

from domains.kernel.guest import Guest
from drivers.block.back import BlockBack
from drivers.net.back import NetBack
from hypervisor.public.errno import Errno, XenError


class DriverDomain(Guest):
    """Serves until it is told to shut down."""

    def serve(self) -> Callable[[], None]:
        """Begin; what ends it."""
        raise NotImplementedError

    def main(self) -> None:
        self.asked = False
        stop = self.serve()
        self.kernel.xenbus.watch("control/shutdown", self.control_changed)
        self.kernel.wait(lambda: self.asked)
        stop()

    def control_changed(self, path: str) -> None:
        """The toolstack writes "poweroff"; emptying the node says that it was seen."""
        try:
            request = self.kernel.xenbus.read(path)
        except XenError as error:
            if error.errno != Errno.ENOENT:
                raise
            return
        if request:
            self.kernel.xenbus.write(path, "")
            self.asked = True


class NetworkBackend(DriverDomain):
    """Interfaces, and the bridges between them."""

    def serve(self) -> Callable[[], None]:
        back = NetBack(self.kernel)
        back.start()
        print("serving network interfaces")
        return back.stop


class BlockBackend(DriverDomain):
    """Disks: files and block devices of the host, which stand for the hardware that a driver domain is given."""

    def serve(self) -> Callable[[], None]:
        back = BlockBack(self.kernel)
        back.start()
        print("serving disks")
        return back.stop
