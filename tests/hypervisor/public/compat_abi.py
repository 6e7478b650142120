"""The structures of 32-bit guests as one table, read once from our layouts and once from Xen's C headers by `gcc -m32`.

    {"mmuext_op": {"sizeof": "12", "cmd": "at 0: u4", "arg1": "at 4: 4 bytes", ...}, ...}

It is in `compat_abi_table.json`; record it anew, from the headers, with `python -m tests.hypervisor.public.compat_abi`.
Nothing of 32 bits is linked or run: the compiler writes each number into its assembler text.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypervisor.public.abi import COMPAT
from hypervisor.public.compat import HEADERS as COMPAT_HEADERS
from hypervisor.public.compat import CompatLayout, declared_in
from hypervisor.public.layout import Struct
from hypervisor.public.memory import e820entry
from tests.hypervisor.public.abi import C_FIELD, c_types, fields, is_number

TABLE = Path(__file__).with_name("compat_abi_table.json")
HEADERS = (
    "xen.h", "event_channel.h", "grant_table.h", "memory.h", "nmi.h", "physdev.h", "sched.h", "vcpu.h", "version.h",
    "callback.h", "hvm/hvm_op.h", "io/blkif.h",
)  # fmt: skip
WITHOUT_SIZE = {"blkif_request_indirect"}
"""There 32 bits have eight bytes more at the end, so that a slot of the ring has its size in all widths."""
Table = dict[str, dict[str, Any]]


def layouts() -> Iterator[tuple[str, type[Struct], type[Struct]]]:
    """Xen's name, the native structure and the 32-bit one, which is the same if there is no difference."""
    natives = dict.fromkeys([*COMPAT.layouts, *declared_in(COMPAT_HEADERS)])
    for native in natives.keys() - {e820entry}:  # which is none of these headers'
        layout = COMPAT.layout(native)
        yield native.__name__, native, layout.struct if isinstance(layout, CompatLayout) else native


def declared() -> Table:
    """The table of what our layouts say."""
    table: Table = {}
    for name, native, narrow in layouts():
        native_hints = {field: hint for field, hint, _ in fields(native)}
        entry = table[name] = {} if name in WITHOUT_SIZE else {"sizeof": str(narrow.sizeof)}
        for field, hint, count in fields(narrow):
            size = narrow.dtype[field].itemsize // (count or 1)
            number = is_number(native_hints.get(field, hint)) and is_number(hint)
            kind = f"{narrow.dtype[field].base.kind}{size}" if number else f"{size} bytes"
            items = "" if count is None else f"{count} of "
            entry[field] = f"at {narrow.offsetof(field)}: {items}{kind}"
    return table


def questions() -> Iterator[str]:
    """C statements that write lines of numbers: -> structure field, then offset, items (0: no array) and an item's size."""
    types = c_types()
    for name, native, narrow in layouts():
        c_type = types[native]
        yield f'asm volatile("-> {name} sizeof %c0" : : "i"(sizeof({c_type})));'
        for field, _, count in fields(narrow):
            c_field = C_FIELD.get(f"{name}.{field}", field.removesuffix("_"))
            whole = f"(({c_type} *)0)->{c_field}"
            item = whole if count is None else f"{whole}[0]"
            items = "0" if count is None else f"sizeof({whole}) / sizeof({item})"
            yield f'asm volatile("-> {name} {field} %c0 %c1 %c2" : : "i"(offsetof({c_type}, {c_field})), '
            yield f'"i"({items}), "i"(sizeof({item})));'


def measured() -> Table:
    """The table of what Xen's headers say to a C compiler for i386; which fields are numbers is what we say."""
    source = "#define __XEN_TOOLS__ 1\n#include <stdint.h>\n#include <stddef.h>\n"
    source += "".join(f"#include <xen/{header}>\n" for header in HEADERS)
    source += "void questions(void) {\n" + "\n".join(questions()) + "\n}\n"
    command = ["gcc", "-m32", "-ffreestanding", "-x", "c", "-w", "-S", "-o", "-", "-"]
    text = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    answers = {
        (name, field): [int(number) for number in numbers.split()]
        for name, field, numbers in re.findall(r"-> (\w+) (\w+) ([\d ]+)", text)
    }
    table: Table = {}
    for name, entry in declared().items():
        table[name] = {}
        for field, ours in entry.items():
            numbers = answers[name, field]
            if field == "sizeof":
                table[name][field] = str(numbers[0])
                continue
            at, items, size = numbers
            kind = f"{size} bytes" if ours.endswith("bytes") else f"{ours.split()[-1][0]}{size}"
            table[name][field] = f"at {at}: {f'{items} of ' if items else ''}{kind}"
    return table


def recorded() -> Table:
    """The committed table."""
    table: Table = json.loads(TABLE.read_text())
    return table


if __name__ == "__main__":
    TABLE.write_text(json.dumps(measured(), indent=1, sort_keys=True) + "\n")
