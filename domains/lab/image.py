"""The kernel under test, as machine code: built by gcc from `kernel/` once, and kept.

bare   the kernel as it is: kernel.c, fault.c, programs.S and bare.c
xen    the same, with xen.c and front.c in the place of bare.c
long   another, of a few instructions, in long mode: long.S
probe  another, that tries instructions in each ring: probe.c, probes.S
xen64  the same for Xen, of 64 bits: xen64.c, xen64.S

The images lie in the cache folder ($XDG_CACHE_HOME/xenoscope/lab, ~/.cache by default), under a name made of their sources, so
that changed sources are built anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

SOURCES: Final = Path(__file__).parent / "kernel"
COMMON: Final = ("kernel.c", "fault.c", "pager.c", "programs.S")
BASE: Final = 0x100000
"""Where the kernel lies, in its own memory and in its own addresses."""
PORTS: Final = {
    "bare": (*COMMON, "bare.c"),
    "xen": ("-DXEN", *COMMON, "xen.c", "front.c"),
    "long": ("long.S",),
    "probe": ("probe.c", "probes.S"),
    "xen64": ("-m64", "-mno-red-zone", "xen64.c", "xen64.S"),
}
"""What each is built of: options and sources."""
FLAGS: Final = (
    *(
        "-m32",
        "-mno-mmx",
        "-mno-sse",
        "-O1",
        "-fno-inline",
        "-ffreestanding",
        "-fno-builtin",
        "-fno-pic",
        "-no-pie",
    ),
    *(
        "-fno-stack-protector",
        "-fno-asynchronous-unwind-tables",
        "-fcf-protection=none",
        "-fno-strict-aliasing",
    ),
    *("-nostdlib", "-static", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"),
    *("-Wa,--noexecstack", f"-Wl,-Ttext={BASE:#x},-e,_start,--build-id=none,--no-warn-rwx-segments"),
)


class LabError(Exception):
    """An experiment cannot be run here; the text says why, and what would help."""


@dataclass(frozen=True)
class Image:
    """`data`: the bytes from BASE on, with .bss; `symbols`: address by name; `bits`: 32, or 64 of a kernel for a 64-bit guest."""

    data: bytes
    entry: int
    symbols: dict[str, int]
    bits: int = 32

    def at(self, name: str) -> int:
        """The address of a symbol. LabError: there is none."""
        if name not in self.symbols:
            raise LabError(f"the kernel under test has no {name}")
        return self.symbols[name]

    def nearest(self, address: int) -> str:
        """The symbol that an address lies behind, and how far: `page_fault+0x12`."""
        names = [(value, name) for name, value in self.symbols.items() if BASE <= value <= address]
        if not names:
            return hex(address)
        value, name = max(names)
        return name if value == address else f"{name}+{address - value:#x}"


@cache
def kernel_image(port: str) -> Image:
    """The kernel for one of PORTS. LabError: there is no compiler, or it refused."""
    parts = sources(port)
    content = b"".join(file.read_bytes() for file in (*sorted(SOURCES.glob("*.h")), *parts))
    digest = hashlib.sha256(content + repr((FLAGS, PORTS[port])).encode()).hexdigest()[:16]
    file = cache_folder() / f"kernel-{port}-{digest}"
    try:
        if file.exists():
            return _load(file)
    except ELFError:
        pass  # what is there is no kernel: it is built anew
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            os.replace(_run_gcc(port, parts, Path(folder) / "kernel"), file)
    except OSError as error:
        raise LabError(
            f"kernels are kept in {file.parent}, and that cannot be written ({error.strerror}): "
            "set XDG_CACHE_HOME to a folder that can"
        ) from None
    return _load(file)


def changed_image(port: str, name: str, replacement: Path) -> Image:
    """The kernel with another file in the place of `name`; it is not kept. LabError: it cannot be built."""
    parts = [replacement if part.name == name else part for part in sources(port)]
    with tempfile.TemporaryDirectory() as folder:
        return _load(_run_gcc(port, parts, Path(folder) / "kernel"))


@cache
def object_code(port: str, name: str) -> bytes:
    """The instructions that one file becomes for this port, not linked. LabError: there is no compiler, or it refused."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = _run_gcc(port, [SOURCES / name], Path(folder) / "object", "-c")
        with compiled.open("rb") as stream:
            section = ELFFile(stream).get_section_by_name(".text")
            return bytes(section.data()) if section is not None else b""


def sources(port: str) -> list[Path]:
    """The files that a kernel is made of, but for its headers."""
    return [SOURCES / part for part in PORTS[port] if not part.startswith("-")]


def cache_folder() -> Path:
    """Where images are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "xenoscope" / "lab"


def _run_gcc(port: str, parts: list[Path], output: Path, *more: str) -> Path:
    if shutil.which("gcc") is None:
        raise LabError("the kernel under test is built by gcc, and there is none: install gcc")
    options = [part for part in PORTS[port] if part.startswith("-")]
    command: list[str | Path] = ["gcc", *FLAGS, *options, *more, "-I", SOURCES, "-o", output, *parts]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"gcc cannot build the kernel under test: {done.stderr.strip()}")
    return output


def _load(file: Path) -> Image:
    with file.open("rb") as stream:
        elf = ELFFile(stream)
        segments = [
            segment
            for segment in elf.iter_segments()
            if segment["p_type"] == "PT_LOAD" and segment["p_vaddr"] >= BASE
        ]
        end = max(segment["p_vaddr"] + segment["p_memsz"] for segment in segments)
        data = bytearray(end - BASE)
        for segment in segments:
            at = segment["p_vaddr"] - BASE
            data[at : at + segment["p_filesz"]] = segment.data()
        table = elf.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        symbols = {
            s.name: s["st_value"]
            for s in table.iter_symbols()
            if s.name and s["st_info"]["type"] != "STT_FILE"
        }
        return Image(bytes(data), elf["e_entry"], symbols, elf.elfclass)
