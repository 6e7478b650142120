"""Which experiments there are. A module is loaded when its experiment is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from domains.lab.image import LabError
from domains.lab.report import Experiment

NAMES: Final = (
    "page-fault",
    "popf",
    "sensitive-instructions",
    "tlb",
    "rings",
    "syscall",
    "traps",
    "page-types",
    "batching",
    "translation",
    "double-paging",
    "io-path",
    "events",
    "dom0",
    "isolation",
    "scheduling",
    "scale",
    "lmbench",
    "adams-agesen",
    "hosted",
    "port",
)
"""In the order in which they are best read."""


def experiment(name: str) -> Experiment:
    """LabError: there is none of that name."""
    if name not in NAMES:
        raise LabError(f"there is no experiment {name!r}; `xenctl lab` lists them")
    module = import_module(f"domains.lab.experiments.{name.replace('-', '_')}")
    found: Experiment = module.EXPERIMENT
    return found
