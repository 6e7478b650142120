"""The end of a guest that broke the contract: the rule, its registers, its stack and the walk, for the hypervisor's log."""

from typing import NoReturn

from domains.cpu.x86.emulator.cpu_state import CR, RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import CS, FS, GPR_NAMES, GS, RSP, SS

STACK_WORDS = 32
CODE_BYTES = 16


def crash(v: X86Vcpu, rule: str, *, walk: int | None = None) -> NoReturn:
    """End the domain; `rule` says what it broke, `walk` an address whose page tables are of interest."""
    lines = [f"vCPU {v.vcpu_id} at {v.cpu.q[RIP]:#x}: {rule}", *registers(v), *stack(v)]
    if walk is not None:
        lines.append(page_walk(v, walk))
    v.gate.crash(v.vcpu_id, "\n".join(lines))


def registers(v: X86Vcpu) -> list[str]:
    """The registers, four a line, and which half of the guest ran."""
    cpu = v.cpu
    names = [f"{name:>3} {cpu.q[i]:016x}" for i, name in enumerate(GPR_NAMES)]
    lines = ["  ".join(names[i : i + 4]) for i in range(0, 16, 4)]
    half = "kernel" if v.mode.in_kernel else "user"
    lines.append(
        f"rip {cpu.q[RIP]:016x}  rfl {cpu.rflags:016x}  cr2 {v.pv.cr2:016x}  cr3 {cpu.q[CR + 3]:016x}  guest {half}"
    )
    bases = f"fs base {cpu.base(FS):x}  gs base {cpu.base(GS):x}  inactive gs base {v.mode.inactive_gs:x}"
    lines.append(f"cs {cpu.selector(CS):04x}  ss {cpu.selector(SS):04x}  {bases}")
    lines.append(f"code at rip: {_octets(v, cpu.q[RIP], CODE_BYTES)}")
    return lines


def stack(v: X86Vcpu) -> list[str]:
    """The words on top of the guest's stack, four a line."""
    words: list[str] = []
    rsp = v.cpu.q[RSP]
    try:
        for i in range(STACK_WORDS):
            words.append(f"{int.from_bytes(v.paging.read(rsp + 8 * i, 8), 'little'):016x}")
    except GuestFault:
        words.append("(not mapped)")
    return [f"stack from {rsp:#x}:", *(" ".join(words[i : i + 4]) for i in range(0, len(words), 4))]


def page_walk(v: X86Vcpu, va: int) -> str:
    """The entries on the way to `va`, for the report."""
    steps = [f"L{level} {entry:016x}" for level, entry in v.paging.levels(va)]
    return f"walk of {va:#x} from CR3 {v.paging.root:#x}: {', '.join(steps)}"


def _octets(v: X86Vcpu, va: int, size: int) -> str:
    try:
        return v.paging.read(va, size).hex(" ")
    except GuestFault:
        return "(not mapped)"
