"""A driver domain: network back ends and their bridges, in a domain without any privilege.

Other domains name it: `vif = ["backend=netdom,bridge=xenbr0"]`. When it dies their interfaces are without a network until it is
there again, which its description's on_crash = "restart" sees to; Dom0 and everybody else goes on.
"""

from domains.kernel.guest import Guest
from drivers.net.back import NetBack
from hypervisor.public.errno import Errno, XenError


class NetworkBackend(Guest):
    def main(self) -> None:
        self.asked = False
        back = NetBack(self.kernel)
        back.start()
        self.kernel.xenbus.watch("control/shutdown", self.control_changed)
        print("serving network interfaces")
        self.kernel.wait(lambda: self.asked)
        back.stop()

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
