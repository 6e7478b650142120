"""control/shutdown: how the toolstack asks a domain to end (`xenctl shutdown`, `xenctl reboot`). Until then the domain heeds
memory/target, too (balloon.py).

Source: Xen docs/misc/xenstore-paths.pandoc, ~/control/shutdown: the toolstack writes "poweroff" or "reboot"; emptying the node
says that it was seen.
"""

from __future__ import annotations

from domains.kernel.balloon import Balloon
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sched import SHUTDOWN_reboot

NODE = "control/shutdown"
REBOOT = "reboot"


def await_shutdown(kernel: Kernel) -> str:
    """Run the kernel's handlers until the domain is asked to end; what it is asked for.

    If that is a reboot, the domain then ends so when the guest's `main` returns, as Linux does (drivers/xen/manage.c,
    do_reboot); the guest need do nothing.
    """
    asked: list[str] = []
    Balloon(kernel).start()

    def changed(path: str) -> Task[None]:
        try:
            request = yield from kernel.xenbus.tasks.read(path)
        except XenError as error:
            if error.errno != Errno.ENOENT:
                raise
            return
        if request:
            yield from kernel.xenbus.tasks.write(path, "")
            asked.append(request)

    token = kernel.xenbus.watch(NODE, changed)
    kernel.wait(lambda: bool(asked))
    kernel.xenbus.unwatch(token)
    if asked[0] == REBOOT:
        kernel.end = int(SHUTDOWN_reboot)
    return asked[0]
