"""The guest under test: it keeps values, which it is told on its console, in its part of xenstore."""

import sys

from domains.kernel.guest import Guest
from hypervisor.public.errno import XenError

WRONG = 3
"""The code that it ends with when it is told what it does not know."""


class KeyValue(Guest):
    """Knows `set KEY VALUE`, `get KEY` and `quit`."""

    def main(self) -> None:
        """Serves the console until it is told to quit."""
        print(f"ready, {self.kernel.cmdline or 'nobody'}")
        while True:
            match input().split(maxsplit=2):
                case ["set", key, value]:
                    self.kernel.xenbus.write(f"data/{key}", value)
                    print(f"{key} is set")
                case ["get", key]:
                    print(f"{key} is {self.value(key)}")
                case ["quit"]:
                    sys.exit(0)
                case unknown:
                    print(f"what is {' '.join(unknown)}?")
                    sys.exit(WRONG)

    def value(self, key: str) -> str:
        """What was set last."""
        try:
            return self.kernel.xenbus.read(f"data/{key}")
        except XenError:
            return "not set"
