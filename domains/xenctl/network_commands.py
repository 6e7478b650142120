"""Commands on networks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

from domains.control.operations import NetworkCapture
from domains.control.protocol import ControlError, Exit
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Machine, Option
from domains.xenctl.output import print_error


def network_capture(
    domain: Annotated[str, Argument(help="Name or id of a domain.", metavar="[DOMAIN]")] = "",
    vif: Annotated[int, Argument(help="Which of its interfaces.", min=0)] = 0,
    bridge: Annotated[str, Option(help="All of this bridge of Dom0 instead, such as xenbr0.")] = "",
    write: Annotated[str, Option("-w", "--write", help="File to write; -: standard output.")] = "-",
    name: Machine = DEFAULT,
) -> None:
    """Write what passes a domain's interface, or a bridge, as pcap, until the domain ends or Ctrl-C."""
    if bool(domain) == bool(bridge):
        raise ControlError(Exit.USAGE, "name a domain, or a bridge with --bridge")
    with machine.connect(name) as client, opened(write) as file:
        request = client.post(NetworkCapture(domain or None, vif, bridge or None))
        while (reply := client.receive(None)) is not None:
            if reply.id != request:
                continue
            result = reply.result()
            if not isinstance(result, bytes):
                print_error(
                    f"the interface is gone: {result.packets} packets captured, {result.dropped} dropped"
                )
                return
            file.write(result)
            file.flush()


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file of that name, made anew, or standard output. Ctrl-C ends the block and is no error."""
    try:
        if path == "-":
            yield sys.stdout.buffer
            return
        with Path(path).open("wb") as file:
            yield file
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ControlError(Exit.FAILURE, f"cannot write {path}: {error.strerror}") from None
