"""A guest that pings the hosts on its command line, and says how long each took.

`extra = "10.0.0.2 10.0.0.3"`; a number among them is how often each is asked. Its own address is its vif's `ip`.
"""

from typing import Final

from domains.kernel.guest import Guest
from drivers.net.ip.interface import Interface

COUNT: Final = 4
INTERVAL: Final = 0.2
"""Seconds between two questions."""


class Ping(Guest):
    """The guest; its command line names the hosts and how often each is asked."""

    def main(self) -> None:
        """Pings one host after the other."""
        words = self.kernel.cmdline.split()
        hosts = [word for word in words if "." in word]
        count = next((int(word) for word in words if word.isdecimal()), COUNT)
        self.net = Interface(self.kernel)
        print(f"{self.net.address} pings {' '.join(hosts)}")
        for host in hosts:
            self.ping(host, count)

    def ping(self, host: str, count: int) -> None:
        """Asks one host `count` times, and prints each time in ms and their median."""
        times = []
        for number in range(count):
            if number:
                self.kernel.sleep(INTERVAL)
            seconds = self.net.ping(host)
            if seconds is None:
                print(f"no answer from {host}")
            else:
                times.append(seconds * 1000)
                print(f"answer from {host}: seq={number} time={seconds * 1000:.3f} ms")
        if times:
            median = sorted(times)[len(times) // 2]
            print(
                f"{host}: {len(times)} of {count} answered, min/median/max {min(times):.3f}/{median:.3f}/{max(times):.3f} ms"
            )
