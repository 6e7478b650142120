"""The smallest guest: says hello and powers off."""

from domains.kernel.guest import Guest


class Hello(Guest):
    """The guest."""

    def main(self) -> None:
        """Says which domain it is and how much memory it has."""
        kernel = self.kernel
        print(f"hello from domain {kernel.domid}, {kernel.memory.nr_pages >> 8} MiB")
        if kernel.cmdline:
            print("my command line:", kernel.cmdline)
