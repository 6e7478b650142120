"""Python guests with devices that come and go, as the source of their class `Probe`."""

USER = """
from domains.kernel.tasks import Task
from drivers.block.front import BlockFront
from hypervisor.public.errno import XenError

DISK = "device/vbd/51728"

class Probe(Guest):
    '''Uses its disk xvdb whenever it has one, and says so in its node `data`.'''

    def main(self) -> None:
        self.there = False
        self.kernel.xenbus.watch(f"{DISK}/backend", self.changed)
        while True:
            self.kernel.wait(lambda: self.there)
            disk = self.connected()
            disk.write(2, b"written" + bytes(505))
            self.kernel.xenbus.write("data", f"read {disk.read(0, 1)[:5].decode()}")
            self.kernel.wait(lambda: not self.there)
            self.kernel.xenbus.write("data", "gone")
            disk.close()

    def connected(self) -> BlockFront:
        disk = BlockFront(self.kernel, DISK)
        disk.connect()
        return disk

    def changed(self, path: str) -> Task[None]:
        try:
            yield from self.kernel.xenbus.tasks.read(path)
            self.there = True
        except XenError:
            self.there = False
"""
BUSY = (
    USER
    + """
class Held(BlockFront):
    '''Has a request under way for as long as the node `data` does not say `release`.'''

    release = False

    def idle(self) -> bool:
        return self.release and super().idle()

class Probe(Probe):
    def connected(self) -> BlockFront:
        disk = Held(self.kernel, DISK)
        disk.connect()

        def told(path: str) -> Task[None]:
            if (yield from self.kernel.xenbus.tasks.read(path)) == "release":
                disk.release = True
                disk.on_event()

        self.kernel.xenbus.watch("data", told)
        return disk
"""
)
LIAR = """
from domains.kernel.shutdown import await_shutdown
from domains.kernel.tasks import Task
from hypervisor.public.errno import XenError

class Probe(Guest):
    '''Publishes nonsense of each device that it gets, whatever becomes of it.'''

    def main(self) -> None:
        for kind in ("vbd", "vif"):
            self.kernel.xenbus.watch(f"device/{kind}", self.changed)
        await_shutdown(self.kernel)

    def changed(self, path: str) -> Task[None]:
        tasks, kind = self.kernel.xenbus.tasks, "/".join(path.split("/")[:2])
        nonsense = {"ring-ref": "9" * 300, "event-channel": "-1", "tx-ring-ref": "x", "state": "\\xb2\\x01"}
        try:
            for devid in (yield from tasks.directory(kind)):
                front = f"{kind}/{devid}"
                yield from tasks.rm(f"{front}/backend-id")  # fails the second time
                for node, value in nonsense.items():
                    yield from tasks.write(f"{front}/{node}", value)
                yield from tasks.write(f"{front}/state", "4")
                yield from tasks.write("data", f"lied of {front}")
        except XenError:
            pass
"""
