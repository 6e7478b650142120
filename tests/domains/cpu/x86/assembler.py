"""GNU as, for what tests run and for listings that are compared with bytes in the code."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any


def assemble_flat(text: str, at: int = 0) -> tuple[bytes, dict[str, int]]:
    """Machine code for address `at`, and its symbols (GNU as)."""

    def tool(*command: Any) -> str:
        return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout

    with tempfile.TemporaryDirectory() as folder:
        source, object_, image, flat = (Path(folder) / name for name in ("a.S", "a.o", "a.elf", "a.bin"))
        source.write_text(text)
        tool("as", "--64", "-o", object_, source)
        tool("ld", "-e", "0", "-Ttext", hex(at), "-o", image, object_)
        tool("objcopy", "-O", "binary", "-j", ".text", image, flat)
        words = [line.split() for line in tool("nm", image).splitlines()]
        return flat.read_bytes(), {name: int(address, 16) for address, _, name in words}
