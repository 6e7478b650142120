"""Machine code never becomes Python, whatever its kernel's bytes say (docs/trust.md).

The flaw: the domain's process chose its CPU by the first bytes at the guest's entry. A kernel for x86 that began as the image of
a Python guest does had the process import the file named there, in host Python that no filter confines.

The probe: such a kernel, which names a file that leaves a mark when it is imported. Negative control: the same file, run as the
Python guest that it says it is, leaves its mark.
"""

from functools import partial
from pathlib import Path

import pytest

from tests.guests.compiled import NEEDS, can_compile, gcc
from tests.machines import Machine, wait_until

KERNEL = """
#define NOTE(type, value) .long 4, 2f - 1f, type; .asciz "Xen"; 1: value; 2: .balign 4;
        .section .note.Xen, "a", @note
        NOTE(6, .asciz "any")           /* XEN_ELFNOTE_GUEST_OS */
        NOTE(5, .asciz "xen-3.0")       /* XEN_ELFNOTE_XEN_VERSION */
        NOTE(8, .asciz "generic")       /* XEN_ELFNOTE_LOADER */
        NOTE(3, .quad 0)                /* XEN_ELFNOTE_VIRT_BASE */
        NOTE(4, .quad 0)                /* XEN_ELFNOTE_PADDR_OFFSET */
        NOTE(1, .quad _start)           /* XEN_ELFNOTE_ENTRY */
        .section .text.start, "ax", @progbits
        .globl _start
_start: .ascii "XENOPY\\0\\0{path}:Probe\\0"
        .balign 4096
"""

PYTHON = """
from pathlib import Path
from domains.kernel.guest import Guest

Path({mark!r}).write_text("imported")

class Probe(Guest):
    def main(self):
        pass
"""


@pytest.mark.needs_headers
@pytest.mark.skipif(not can_compile(), reason=NEEDS)
def test_a_kernel_that_begins_as_a_python_image_does_runs_on_the_x86_engine(
    machine: Machine, tmp_path: Path
) -> None:
    mark, guest = tmp_path / "mark", tmp_path / "probe.py"
    guest.write_text(PYTHON.format(mark=str(mark)))
    source, image = tmp_path / "kernel.S", tmp_path / "kernel"
    source.write_text(KERNEL.replace("{path}", str(guest)))
    gcc("-nostdlib", "-static", "-Wl,--build-id=none", "-o", image, source)
    ends = 'memory = 16\non_crash = "destroy"\n'
    for name, kernel, imported in (("code", image, False), ("python", f"python:{guest}:Probe", True)):
        done = machine.create(tmp_path, f'name = "{name}"\nkernel = "{kernel}"\n{ends}')
        assert done.returncode == 0, done.stderr
        wait_until(partial(machine.is_gone, name), 40, "the guest's end")
        assert mark.exists() is imported
    assert "code" not in machine.domains()
