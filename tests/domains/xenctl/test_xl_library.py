"""The library under Debian's xl, in C, and Dom0 mean the same by a message: what the compiler makes of client.h is compared with
what messages.py declares.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from domains.dom0.privcmd import messages
from domains.dom0.privcmd.foreign import FRAMES_MAX
from domains.xenctl.xl_library import SOURCES
from hypervisor.public.layout import Struct

RECORDS = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Struct) and kind is not Struct
]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def statements(record: type[Struct]) -> list[str]:
    """What must hold of one structure, in C."""
    name = f"struct {record.__name__.lower()}"
    fields = [field for field in record.dtype.names or () if not field.startswith("_")]
    equal = [(f"sizeof({name})", record.sizeof)]
    equal += [(f"offsetof({name}, {field})", record.offsetof(field)) for field in fields]
    return [f'_Static_assert({what} == {value}, "{what}");' for what, value in equal]


@needs_gcc
@pytest.mark.needs_headers
def test_the_library_and_dom0_lay_out_messages_alike(tmp_path: Path) -> None:
    lines = ['#include "client.h"', *(line for record in RECORDS for line in statements(record))]
    lines += [f'_Static_assert(KIND_{kind.name} == {kind}, "{kind.name}");' for kind in messages.Kind]
    lines += [f'_Static_assert(FRAMES_MAX == {FRAMES_MAX}, "FRAMES_MAX");']
    lines += [f'_Static_assert(PIECES_MAX == {messages.PIECES_MAX}, "PIECES_MAX");']
    lines += [f'_Static_assert(sizeof(MAGIC) == {len(messages.MAGIC) + 1}, "MAGIC");']
    source = tmp_path / "check.c"
    source.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["gcc", "-fsyntax-only", "-I", SOURCES, source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f'#define MAGIC "{messages.MAGIC.decode()}"' in (SOURCES / "client.h").read_text()
