"""The ABI as one table of plain values, read once from our declarations and once from Xen's C headers.

`declared()` walks every module of `hypervisor.public`; `measured()` asks the C compiler about the same names.
A table has three parts, in `abi_table.json` as here:

    structures   {"mmuext_op": {"sizeof": "24", "cmd": "at 0: u4", "arg1": "at 8: 8 bytes", ...}, ...}
    numbers      {"MMUEXT_PIN_L4_TABLE": "3", ...}, as signed 64-bit numbers
    texts        {"XEN_IO_PROTO_ABI_NATIVE": "x86_64-abi", ...}

Record it anew, from the headers, with `python -m tests.hypervisor.public.abi`.
"""

import importlib
import inspect
import json
import pkgutil
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import hypervisor.public
from hypervisor.public.errno import Errno
from hypervisor.public.io.xs_wire import xsd_errors
from hypervisor.public.layout import Struct, Union
from hypervisor.public.types import XEN_GUEST_HANDLE
from hypervisor.public.xen import Hypercall

Table = dict[str, dict[str, Any]]

TABLE = Path(__file__).with_name("abi_table.json")
HEADERS = Path("/usr/include/xen")
MEASURABLE = shutil.which("gcc") is not None and (HEADERS / "xen.h").exists()

# Modules that are not the header of the same path.
HEADER_OF = {
    "arch_x86.xen": "arch-x86/xen.h",
    "arch_x86.xen_x86_64": "arch-x86/xen-x86_64.h",
    "arch_x86.hvm.start_info": "arch-x86/hvm/start_info.h",
    "arch_x86.hvm.save": "hvm/save.h",
    "domctl_domain": "domctl.h",
    "domctl_vcpu": "domctl.h",
    "sysctl_sched": "sysctl.h",
}
WITHOUT_HEADER = {
    "abi",
    "arch_x86.xen_x86_32",
    "compat",
    "layout",
    "types",
    "xenoscope_hvm",
    "xenoscope_sched",
}
"""xen_x86_32 has the names of xen_x86_64 with other values: test_compat.py looks at it."""

# Families whose members leave out a prefix.
PREFIX: dict[type[Enum], str] = {Hypercall: "__HYPERVISOR_", Errno: "XEN_"}

# Where our name is not C's.
C_TYPE = {"sring": "struct blkif_sring"}
C_SIZE = {"sring": "offsetof(struct blkif_sring, ring)"}
C_FIELD = {"sring.pad": "__pad"}
C_NUMBER = {
    "XEN_COMMANDLINE_LEN": "sizeof(xen_commandline_t)",
}
NOT_C_TEXT = {"XEN_EMULATE_PREFIX"}  # there it is assembler source
OURS = "XENOSCOPE_"
"""How the names of this project's own additions begin: no header of Xen's has them."""


def modules() -> Iterator[tuple[str, ModuleType]]:
    """Every module that stands for a header, by its name below `hypervisor.public`."""
    prefix = hypervisor.public.__name__ + "."
    for found in pkgutil.walk_packages(hypervisor.public.__path__, prefix):
        name = found.name.removeprefix(prefix)
        if not found.ispkg and name not in WITHOUT_HEADER:
            yield name, importlib.import_module(found.name)


def own(base: type) -> list[type[Any]]:
    """Every subclass of `base` that is declared in one of the modules, in order."""
    return [
        value
        for _, module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]


def fields(structure: type[Struct]) -> Iterator[tuple[str, Any, int | None]]:
    """Name, type and number of items (None if it is not an array) of each field."""
    for name, hint in inspect.get_annotations(structure).items():
        is_array = get_args(hint) and Ellipsis in get_args(get_args(hint)[0])
        yield (name, get_args(get_args(hint)[0])[0], get_args(hint)[1]) if is_array else (name, hint, None)


def is_number(hint: Any) -> bool:
    """Whether a field is a C integer; a guest handle is a structure there."""
    return not inspect.isclass(hint) and isinstance(get_args(hint)[1], str) and hint != XEN_GUEST_HANDLE


def declared() -> Table:
    """The table of what `hypervisor.public` says."""
    structures = {}
    for structure in own(Struct):
        entry = structures[structure.__name__] = {"sizeof": str(structure.sizeof)}
        for name, hint, count in fields(structure):
            size = structure.dtype[name].itemsize // (count or 1)
            kind = get_args(hint)[1][1:] if is_number(hint) else f"{size} bytes"
            items = "" if count is None else f"{count} of "
            entry[name] = f"at {structure.offsetof(name)}: {items}{kind}"
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}
    for family in own(Enum):
        prefix = PREFIX.get(family, "")
        numbers |= {prefix + name: member.value for name, member in family.__members__.items()}
    for _, module in modules():
        for name, value in vars(module).items():
            if type(value) is int and not name.startswith(OURS):
                numbers[name] = value
            elif isinstance(value, str | bytes) and not name.startswith("__") and name not in NOT_C_TEXT:
                texts[name] = value.decode() if isinstance(value, bytes) else value
    texts["xsd_errors"] = " ".join(errno.name for errno in xsd_errors)
    signed = {name: str((value + 2**63) % 2**64 - 2**63) for name, value in numbers.items()}
    return {"structures": structures, "numbers": signed, "texts": texts}


def c_types() -> dict[type[Struct], str]:
    """The C type of each structure: its tag, or if it has none, the type of the member it is named after."""
    structures = own(Struct)
    types = {s: f"{'union' if issubclass(s, Union) else 'struct'} {s.__name__}" for s in structures}
    types |= {s: C_TYPE[s.__name__] for s in structures if s.__name__ in C_TYPE}
    for outer in reversed(structures):  # what holds a member is declared after it
        for name, hint, count in fields(outer):
            if inspect.isclass(hint) and hint.__name__ == f"{outer.__name__}_{name}":
                item = name if count is None else f"{name}[0]"
                types[hint] = f"__typeof__((({types[outer]} *)0)->{item})"
    return types


def questions() -> Iterator[str]:
    """C statements that print the table's entries, one a line: part, key, key within a structure, value."""
    for structure, c_type in c_types().items():
        key = structure.__name__
        yield f'printf("structures\\t{key}\\tsizeof\\t%zu\\n", {C_SIZE.get(key, f"sizeof({c_type})")});'
        for name, hint, count in fields(structure):
            field = C_FIELD.get(f"{key}.{name}", name.removesuffix("_"))
            whole = f"(({c_type} *)0)->{field}"
            item = whole if count is None else f"{whole}[0]"
            yield f'printf("structures\\t{key}\\t{name}\\tat %zu: ", offsetof({c_type}, {field}));'
            if count is not None:
                yield f'printf("%zu of ", sizeof({whole}) / sizeof({item}));'
            if is_number(hint):
                yield f"printf(\"%c%zu\\n\", (__typeof__({item}))-1 < 0 ? 'i' : 'u', sizeof({item}));"
            else:
                yield f'printf("%zu bytes\\n", sizeof({item}));'
    for name in declared()["numbers"]:
        yield f'printf("numbers\\t{name}\\t%lld\\n", (long long)({c_number(name)}));'
    for name in declared()["texts"].keys() - {"xsd_errors"}:
        yield f'printf("texts\\t{name}\\t%s\\n", {name});'
    yield 'printf("texts\\txsd_errors\\t");'
    yield "for (int i = 0; i < sizeof(xsd_errors) / sizeof(xsd_errors[0]); i++)"
    yield '    printf("%s%s", i ? " " : "", xsd_errors[i].errstring);'
    yield 'printf("\\n");'


def c_number(name: str) -> str:
    """The C expression of a number's value."""
    record = name.removeprefix("HVM_SAVE_CODE_")
    return C_NUMBER.get(name, name) if record == name else f"HVM_SAVE_CODE({record})"


def measured() -> Table:
    """The table of what Xen's headers say to a C compiler."""
    headers = dict.fromkeys(HEADER_OF.get(name, name.replace(".", "/") + ".h") for name, _ in modules())
    includes = [
        "stdint.h",
        "stddef.h",
        "stdio.h",
        "string.h",
        "errno.h",
        "xenctrl.h",  # e820entry
        *(f"xen/{header}" for header in headers),
    ]
    source = "#define __XEN_TOOLS__ 1\n" + "".join(f"#include <{include}>\n" for include in includes)
    source += "int main(void) {\n" + "\n".join(questions()) + "\nreturn 0;\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "abi")
        subprocess.run(["gcc", "-x", "c", "-w", "-o", program, "-"], input=source, text=True, check=True)
        lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    table: Table = {"structures": {}, "numbers": {}, "texts": {}}
    for part, key, *rest in (line.split("\t") for line in lines):
        if part == "structures":
            table[part].setdefault(key, {})[rest[0]] = rest[1]
        else:
            table[part][key] = rest[0]
    return table


def recorded() -> Table:
    """The committed table."""
    table: Table = json.loads(TABLE.read_text())
    return table


if __name__ == "__main__":
    TABLE.write_text(json.dumps(measured(), indent=1, sort_keys=True) + "\n")
