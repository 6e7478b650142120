"""A guest that fetches a page by HTTP and prints it: Python's own http.client, over a stack all of Python.

`extra = "http://10.0.0.1/"`; of what is not text it prints the size, and how fast it came.
"""

import http.client
import io
import socket
from typing import cast
from urllib.parse import urlsplit

from domains.kernel.guest import Guest
from drivers.net.ip.interface import Interface, Stream


class WebClient(Guest):
    """The guest; its command line has the URLs."""

    def main(self) -> None:
        """Fetches one page after the other."""
        self.net = Interface(self.kernel)
        for url in self.kernel.cmdline.split():
            self.fetch(url)

    def fetch(self, url: str) -> None:
        """Fetches one page and prints its text, or how fast it came."""
        where = urlsplit(url)
        start = self.kernel.now()
        connection = OverStack(self.net, where.hostname or "", where.port or 80)
        connection.request("GET", where.path or "/")
        response = connection.getresponse()
        body = response.read()
        seconds = (self.kernel.now() - start) / 1e9
        print(f"{response.status} {response.reason}")
        if response.headers.get_content_maintype() == "text":
            print(body.decode("utf-8", "replace"))
        else:
            print(f"{len(body)} bytes in {seconds:.3f} s, {len(body) / seconds / 1e6:.1f} MB/s")
        connection.close()


class OverStack(http.client.HTTPConnection):
    """An HTTP connection that runs over this guest's own network instead of the host's."""

    def __init__(self, net: Interface, host: str, port: int) -> None:
        super().__init__(host, port)
        self.net = net

    def connect(self) -> None:
        """Connects over the guest's own stack instead of the host's sockets."""
        self.sock = cast(socket.socket, Wire(self.net.connect(self.host, self.port)))


class Wire:
    """What http.client wants of a socket; as there, the file made of it outlives it."""

    def __init__(self, stream: Stream) -> None:
        self.sendall = stream.write
        self.stream = stream

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client reads the answer from."""
        return io.BufferedReader(self.stream)

    def close(self) -> None:
        """The connection is closed with its file, when the answer was read."""
