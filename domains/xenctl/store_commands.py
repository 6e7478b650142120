"""Commands on xenstore."""

from __future__ import annotations

from typing import Annotated

from domains.control.operations import XenstoreLs
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Json, Machine, Option
from domains.xenctl.output import print_json


def xenstore_ls(
    path: Annotated[str, Argument(help="Where to begin.")] = "/",
    full: Annotated[bool, Option("-f", help="Print whole paths.")] = False,
    permissions: Annotated[bool, Option("-p", help="Print permissions.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Print what is in xenstore, as Xen's xenstore-ls does."""
    with machine.connect(name) as client:
        nodes = client.call(XenstoreLs(path))
    if json:
        print_json([{**encode(node), "value": printable(node.value)} for node in nodes])
        return
    top = path.rstrip("/").count("/") + 1
    for node in nodes:
        if node.path == (path.rstrip("/") or "/") and not full:
            continue
        label = node.path if full else " " * (node.path.count("/") - top) + node.path.rpartition("/")[2]
        who = f"   ({','.join(node.permissions)})" if permissions else ""
        print(f'{label} = "{printable(node.value)}"{who}')


def printable(value: bytes) -> str:
    r"""Text with what cannot be printed as \xNN, \n, \\ and \"."""
    escapes = {9: r"\t", 10: r"\n", 13: r"\r", 34: r"\"", 92: r"\\"}
    return "".join(escapes.get(b) or (chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in value)
