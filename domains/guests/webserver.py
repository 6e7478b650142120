"""A guest that serves a page over HTTP, on a TCP/IP stack and a driver all of Python.

A request is gathered until its headers end; Python's own http.server then answers it. Nothing waits: any number of
connections are served side by side from the kernel's loop. `/bytes/N` gives N bytes, for measuring.
"""

import io
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final

from domains.kernel.guest import Guest
from domains.kernel.shutdown import await_shutdown
from drivers.net.ip.interface import Interface
from drivers.net.ip.tcp.connection import Connection

PORT: Final = 80
MAX_REQUEST: Final = 8192
MAX_BYTES: Final = 64 << 20
END_OF_HEADERS: Final = b"\r\n\r\n"
PAGE: Final = """<!doctype html>
<title>A Xen domain</title>
<h1>Hello from domain {domid}</h1>
<p>{address} has answered {count} requests in {seconds:.0f} seconds.</p>
"""


class WebServer(Guest):
    """The guest: one page, on port PORT."""

    def main(self) -> None:
        """Serves until it is told to shut down."""
        self.count = 0
        self.domid = self.kernel.domid
        self.net = Interface(self.kernel)
        self.start = self.kernel.now()
        self.net.listen(PORT, lambda connection: Visitor(self, connection).look())
        print(f"serving http://{self.net.address}/")
        await_shutdown(self.kernel)
        print(f"{self.count} requests answered")

    def page(self) -> bytes:
        """The page as it is now: the domain that serves it, the number of requests, and for how long it has served."""
        seconds = (self.kernel.now() - self.start) / 1e9
        return PAGE.format(
            domid=self.domid, address=self.net.address, count=self.count, seconds=seconds
        ).encode()


class Visitor:
    """One connection: its request so far, or what is left of the answer."""

    def __init__(self, server: WebServer, connection: Connection) -> None:
        self.server = server
        self.connection = connection
        self.request = b""
        self.answer: memoryview | None = None
        connection.changed = self.look

    def look(self) -> None:
        """Go on with whatever is possible now."""
        connection = self.connection
        if self.answer is None:
            self.request += connection.read()
            if END_OF_HEADERS in self.request or len(self.request) > MAX_REQUEST:
                self.answer = memoryview(Answer(self.server, self.request[:MAX_REQUEST]).whole())
            elif connection.at_end:
                connection.close()
        while self.answer and connection.writable:
            self.answer = self.answer[connection.write(self.answer) :]
        if self.answer is not None and not self.answer:
            connection.close()


class Answer(BaseHTTPRequestHandler):
    """The answer to one request, of bytes to bytes."""

    def __init__(self, server: WebServer, request: bytes) -> None:
        self.guest = server
        self.client_address = ("", 0)
        self.rfile = io.BufferedReader(io.BytesIO(request))
        self.written = io.BytesIO()
        self.wfile = self.written
        self.handle_one_request()

    def whole(self) -> bytes:
        """The whole answer, headers and body."""
        return self.written.getvalue()

    def do_GET(self) -> None:
        """The page, or `/bytes/N`."""
        kind, _, number = self.path.lstrip("/").partition("/")
        if not kind:
            self.guest.count += 1
            self.reply("text/html; charset=utf-8", self.guest.page())
        elif kind == "bytes" and number.isdecimal() and int(number) <= MAX_BYTES:
            self.reply("application/octet-stream", bytes(int(number)))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def reply(self, kind: str, body: bytes) -> None:
        """Writes an answer of status 200 with this content type."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the console is for people."""
