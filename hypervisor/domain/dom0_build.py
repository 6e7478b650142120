"""Building Dom0: the one domain that no toolstack builds (Xen arch/x86/pv/dom0_build.c)."""

from __future__ import annotations

from typing import Final

import numpy as np

from hypervisor.builder.pv_contents import StartOfDay, contents, vcpu_context
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.builder.pv_layout import plan
from hypervisor.domain.context import install_context
from hypervisor.domain.domain import Domain
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.lifecycle import create_domain
from hypervisor.events.event_channels import NR_PIRQS
from hypervisor.machine.config import MachineConfig
from hypervisor.mm.budget import Budget
from hypervisor.public.types import PAGE_SHIFT, DomId, MAddr, Mfn, VAddr
from hypervisor.public.xen import SIF_INITDOMAIN, SIF_PRIVILEGED
from hypervisor.wire.mailbox import Engine

VIRT_BASE: Final = VAddr(0xFFFF_FFFF_8000_0000)


def _options(config: MachineConfig) -> list[str]:
    seed = [] if config.seed is None else [f"seed={config.seed}"]
    return [f"folder={config.folder}", f"machine={config.name}", *seed, *config.dom0_options]


def build_dom0(hv: Hypervisor, config: MachineConfig) -> Domain:
    """Create, fill and start domain 0. It controls the machine and may bind every physical interrupt."""
    domain = create_domain(
        hv, DomId(0), privileged=True, max_pages=config.memory_frames, engine=Engine.PYTHON
    )
    domain.events.permitted_pirqs.update(range(NR_PIRQS))
    hv.virqs.default = domain.events
    image = PvImage(
        segments=[Segment(VIRT_BASE, config.dom0_kernel, len(config.dom0_kernel))],
        virt_base=VIRT_BASE,
        entry=VIRT_BASE,
    )
    layout = plan(image, config.dom0_frames)
    p2m = np.array([hv.mmu.allocator.alloc_page(domain.mem) for _ in range(layout.nr_pages)], dtype=np.uint64)
    for pfn, mfn in enumerate(p2m.tolist()):
        hv.mmu.m2p.set(Mfn(mfn), pfn)
    day = StartOfDay(
        shared_info=MAddr(domain.shared_info << PAGE_SHIFT),
        flags=int(SIF_PRIVILEGED | SIF_INITDOMAIN),
        cmdline=" ".join(_options(config)),
    )
    for content in contents(layout, p2m, day):
        pages = content.data.reshape(-1, 4096)
        for i, page in enumerate(pages):
            hv.memory.write(int(p2m[content.pfn + i]) << PAGE_SHIFT, page.tobytes())
    install_context(hv, domain.vcpus[0], vcpu_context(layout, p2m), Budget(1 << 30))
    domain.tool_pauses = 0
    hv.run.domain_unpause(domain)
    return domain
