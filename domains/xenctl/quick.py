"""`xenctl list` without anything that takes a while to load: Python's start and imports are most of what a short command costs.

What is answered here is answered as the command itself would (domain_commands.py). Of everything else (other options, a machine
that is not there, an answer that is late or no list) nothing is said, and the command is performed as all others are. The modules
that this one imports keep away from `typing`, `enum`, `re`, `pathlib` and `socket`: each takes longer than the question.
"""

from __future__ import annotations

import os
import sys

from domains.xenctl.place import can_be_name, lives, place_of

DEFAULT = "default"
"""The name of the machine that is meant where none is named."""
PATIENCE = 30.0
"""Seconds that each of Dom0's words may take."""
CHUNK = 1 << 16
MAX_ANSWER = 4 << 20
"""Bytes; as domains.control.protocol, MAX_MESSAGE."""
QUESTION = {"op": "list", "id": 1, "domain": None, "brief": True}


def answer(words: list[str]) -> str | None:
    """What a command prints, or None: somebody else is to perform it."""
    if words == ["list"]:
        name = os.environ.get("XENCTL_MACHINE") or DEFAULT
    elif len(words) == 3 and words[:2] == ["list", "--machine"]:
        name = words[2]
    else:
        return None
    if None in (sys.stdin, sys.stdout, sys.stderr):  # a socket might be taken for one of them
        return None
    try:
        domains = domains_of(name)
        return None if domains is None else listing(domains)
    except (KeyError, TypeError):
        return None


def domains_of(name: str) -> list[dict[str, object]] | None:
    """The domains of a machine, as domains.control.operations, Listed; None if they cannot be had at once."""
    if not can_be_name(name) or not lives(place := place_of(name)):
        return None
    try:
        import msgpack

        reply = msgpack.unpackb(ask(place))
        return list(reply["result"]) if reply["ok"] is True else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def ask(place: str) -> bytes:
    """Dom0's answer to the question. Raises OSError, EOFError, ValueError."""
    from _socket import AF_UNIX, SOCK_STREAM, socket  # what the module `socket` is made around

    import msgpack

    from hypervisor.wire.errors import ProtocolError
    from hypervisor.wire.zmtp import Incoming, frame, handshake

    connection = socket(AF_UNIX, SOCK_STREAM)
    connection.settimeout(PATIENCE)
    connection.connect(os.path.join(place, "xenctl"))
    connection.send(handshake(b"DEALER"))
    incoming, asked = Incoming(MAX_ANSWER), False
    while True:
        chunk = connection.recv(CHUNK)
        if not chunk:
            raise EOFError
        try:
            messages = incoming.feed(chunk)
        except ProtocolError:
            raise ValueError from None
        if messages:
            connection.close()
            return messages[0]
        if incoming.ready and not asked:
            connection.send(frame(msgpack.packb(QUESTION)))
            asked = True


def listing(domains: list[dict[str, object]]) -> str:
    """The table of these domains. Raises KeyError, TypeError."""
    from domains.xenctl.tables import LISTED, LISTED_LEFT, listed, table

    wanted = ("name", "domid", "memory_kib", "vcpus", "state", "cpu_time", "pid")
    rows = [listed(*[about[one] for one in wanted]) for about in domains]  # type: ignore[arg-type]  # as Listed declares them
    return table(LISTED, rows, LISTED_LEFT)
