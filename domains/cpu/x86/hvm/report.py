"""The end of an HVM guest that broke the contract: what it did and its registers, for the hypervisor's log."""

from typing import NoReturn

from domains.cpu.x86.emulator.cpu_state import EFER, RIP
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import CS, FS, GPR_NAMES, GS, SS

CODE_BYTES = 16


def crash(v: HvmVcpu, rule: str) -> NoReturn:
    """End the domain; `rule` says why."""
    v.gate.crash(v.vcpu_id, report(v, rule))


def report(v: HvmVcpu, what: str) -> str:
    """What happened to this vCPU, and its registers."""
    return "\n".join([f"vCPU {v.vcpu_id} at {v.cpu.q[RIP]:#x}: {what}", *registers(v)])


def registers(v: HvmVcpu) -> list[str]:
    """The registers, four a line, and the code at rip."""
    cpu, q = v.cpu, v.cpu.q
    names = [f"{name:>3} {q[i]:016x}" for i, name in enumerate(GPR_NAMES)]
    lines = ["  ".join(names[i : i + 4]) for i in range(0, 16, 4)]
    lines.append(f"rip {q[RIP]:016x}  rfl {cpu.rflags:016x}  efer {q[EFER]:x}  cpl {v.mode.cpl}")
    lines.append("  ".join(f"cr{n} {v.paging.control(n):016x}" for n in (0, 2, 3, 4)))
    lines.append(
        f"cs {cpu.selector(CS):04x}  ss {cpu.selector(SS):04x}  fs {cpu.base(FS):x}  gs {cpu.base(GS):x}"
    )
    try:
        code = v.paging.read(q[RIP], CODE_BYTES, fetch=True).hex(" ")
    except (GuestFault, NotMapped):
        code = "(not mapped)"
    return [*lines, f"code at rip: {code}"]
