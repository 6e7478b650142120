"""Whom a machine believes: its own pair of keys, who may send it domains, and how it knows others (CURVE of ZeroMQ).

    $XDG_STATE_HOME/xenoscope/keys/<machine>        the secret key, 64 hexadecimal digits; mode 0600, made when it is first needed
    $XDG_CONFIG_HOME/xenoscope/authorized_keys      a line each: the public key of a machine that may send domains here
    $XDG_CONFIG_HOME/xenoscope/known_machines       a line each: HOST:PORT and the public key of the machine there

What follows after a blank in a line is a comment, as are lines that begin with #. Both files are read anew each time; one that
others may write is not believed. Source: ZeroMQ RFC 26 (CurveZMQ).
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

KEY_SIZE: Final = 32
"""Bytes of a key."""
HEX_KEY: Final = re.compile("[0-9a-f]{64}")
LARGEST_FILE: Final = 1 << 18
"""Bytes of such a file; what comes after them is not read."""


class KeyProblem(Exception):
    """A key, or a file of keys, that cannot be used; `str()` is one line that says what to do."""


class Pair(NamedTuple):
    """A machine's keys, KEY_SIZE bytes each."""

    public: bytes
    secret: bytes


def key_of(text: str) -> bytes:
    """The public key written so. Raises KeyProblem."""
    if not HEX_KEY.fullmatch(text.lower()):
        raise KeyProblem("a key has 64 hexadecimal digits; 'xenctl key' prints that of a machine")
    return bytes.fromhex(text)


def pair_of(machine: str) -> Pair:
    """A machine's keys, which are made if there are none yet. Raises KeyProblem."""
    path = folder("XDG_STATE_HOME", "~/.local/state") / "keys" / machine
    try:
        with suppress(FileExistsError):
            if not path.exists():
                make(path)
        text = private_text(path).strip()
    except OSError as error:
        raise KeyProblem(f"cannot read the machine's key {path}: {error.strerror}") from None
    if not HEX_KEY.fullmatch(text):
        raise KeyProblem(f"{path} is no key; remove it, and a new one is made")
    return pair(bytes.fromhex(text))


def pair(secret: bytes) -> Pair:
    """The pair of a secret key."""
    import zmq
    from zmq.utils import z85

    return Pair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


def make(path: Path) -> None:
    """Write a new secret key. FileExistsError: somebody else has been faster. Raises OSError."""
    import zmq
    from zmq.utils import z85

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _public, secret = zmq.curve_keypair()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, z85.decode(secret).hex().encode() + b"\n")
        os.link(part, path)
    finally:
        os.close(fd)
        os.unlink(part)


def authorized() -> Iterator[bytes]:
    """The public keys of those who may send domains here. Raises KeyProblem for a file that cannot be believed."""
    for words in lines(config_file("authorized_keys")):
        with suppress(KeyProblem):
            yield key_of(words[0])


def known(place: str) -> bytes:
    """The public key of the machine at HOST:PORT. Raises KeyProblem."""
    path = config_file("known_machines")
    for words in lines(path):
        if words[0] == place and len(words) > 1:
            return key_of(words[1])
    raise KeyProblem(
        f"the key of the machine at {place} is not known: 'xenctl key' prints it there; give it by --key, or write"
        f" '{place} KEY' into {path}"
    )


def config_file(name: str) -> Path:
    """Where one of the two files lies, if it is there."""
    return folder("XDG_CONFIG_HOME", "~/.config") / name


def folder(variable: str, default: str) -> Path:
    """Xenoscope's part of one of the user's folders."""
    named = os.environ.get(variable, "")
    return Path(named if named.startswith("/") else os.path.expanduser(default)) / "xenoscope"


def lines(path: Path) -> Iterator[list[str]]:
    """The words of each line that is not empty and no comment. Raises KeyProblem."""
    try:
        text = private_text(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KeyProblem(f"cannot read {path}: {error.strerror}") from None
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words


def private_text(path: Path) -> str:
    """The text of a file that nobody else can write. Raises OSError, KeyProblem."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if (
            status.st_uid not in (os.getuid(), 0)
            or status.st_mode & 0o022
            or not stat.S_ISREG(status.st_mode)
        ):
            raise KeyProblem(f"{path} is not believed, for others can write it: chmod go-w it")
        return os.read(fd, LARGEST_FILE).decode(errors="replace")
    finally:
        os.close(fd)
