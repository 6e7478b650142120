"""A guest that does nothing until it is told to shut down: what a domain costs by itself.

It watches control/shutdown as every PV guest does, so that `xenctl shutdown` ends it.
"""

from domains.kernel.guest import Guest
from hypervisor.public.errno import Errno, XenError


class Idle(Guest):
    def main(self) -> None:
        self.asked = False
        self.kernel.xenbus.watch("control/shutdown", self.control_changed)
        print("idle")
        self.kernel.wait(lambda: self.asked)
        print("told to shut down")

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
