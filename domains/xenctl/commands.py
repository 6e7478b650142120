"""Every command of xenctl, in the order of its help, and the function that performs it.

A module is imported when one of its commands is asked for: imports are most of what a command costs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "run": "run_command.run",
    "start": "machine_commands.start",
    "stop": "machine_commands.stop",
    "info": "machine_commands.info",
    "dmesg": "machine_commands.dmesg",
    "debug-keys": "machine_commands.debug_keys",
    "create": "domain_commands.create",
    "destroy": "domain_commands.destroy",
    "pause": "domain_commands.pause",
    "unpause": "domain_commands.unpause",
    "shutdown": "ending_commands.shutdown",
    "reboot": "ending_commands.reboot",
    "rename": "upkeep_commands.rename",
    "config-update": "upkeep_commands.config_update",
    "sysrq": "upkeep_commands.sysrq",
    "trigger": "upkeep_commands.trigger",
    "dump-core": "upkeep_commands.dump_core",
    "save": "saving_commands.save",
    "restore": "saving_commands.restore",
    "migrate": "migration_commands.migrate",
    "resume": "migration_commands.resume",
    "key": "migration_commands.key",
    "snapshot": "snapshot_commands.snapshot",
    "fork": "snapshot_commands.fork",
    "snapshot-list": "snapshot_commands.snapshot_list",
    "snapshot-delete": "snapshot_commands.snapshot_delete",
    "domid": "domain_commands.domid",
    "domname": "domain_commands.domname",
    "list": "listing_commands.list_",
    "vm-list": "listing_commands.vm_list",
    "uptime": "listing_commands.uptime",
    "top": "top_command.top",
    "vcpu-list": "vcpu_commands.vcpu_list",
    "vcpu-set": "vcpu_commands.vcpu_set",
    "vcpu-pin": "vcpu_commands.vcpu_pin",
    "sched-credit": "sched_commands.sched_credit",
    "sched-credit2": "sched_commands.sched_credit2",
    "sched-rtds": "sched_rtds_command.sched_rtds",
    "sched-bvt": "sched_commands.sched_bvt",
    "cpupool-list": "cpupool_commands.cpupool_list",
    "cpupool-create": "cpupool_commands.cpupool_create",
    "cpupool-destroy": "cpupool_commands.cpupool_destroy",
    "cpupool-rename": "cpupool_commands.cpupool_rename",
    "cpupool-cpu-add": "cpupool_commands.cpupool_cpu_add",
    "cpupool-cpu-remove": "cpupool_commands.cpupool_cpu_remove",
    "cpupool-migrate": "cpupool_commands.cpupool_migrate",
    "cpupool-numa-split": "cpupool_commands.cpupool_numa_split",
    "mem-set": "memory_commands.mem_set",
    "mem-max": "memory_commands.mem_max",
    "claims": "memory_commands.claims",
    "block-attach": "block_commands.block_attach",
    "block-list": "block_commands.block_list",
    "block-detach": "block_commands.block_detach",
    "network-attach": "nic_commands.network_attach",
    "network-list": "nic_commands.network_list",
    "network-detach": "nic_commands.network_detach",
    "vxlan-attach": "vxlan_commands.vxlan_attach",
    "vxlan-peers": "vxlan_commands.vxlan_peers",
    "vxlan-list": "vxlan_commands.vxlan_list",
    "vxlan-detach": "vxlan_commands.vxlan_detach",
    "console": "console_commands.console",
    "network-capture": "network_commands.network_capture",
    "xenstore-ls": "store_commands.xenstore_ls",
    "xl-env": "xl_commands.xl_env",
    "up": "topology_commands.up",
    "down": "topology_commands.down",
    "validate": "topology_commands.validate",
    "graph": "topology_commands.graph",
    "ps": "topology_commands.ps",
    "fleet": "fleet_command.fleet",
    "sched-sim": "sched_sim_command.sched_sim",
    "lab": "lab_commands.lab",
    "exercise": "exercise_commands.exercise",
    "completion": "completion_command.completion",
}
"""Each name with the module in this folder and the function there."""


def function_of(name: str) -> Callable[..., object]:
    """What performs a command; its parameters are the command's arguments and options."""
    module, _, function = COMMANDS[name].rpartition(".")
    performs: Callable[..., object] = getattr(import_module(f"domains.xenctl.{module}"), function)
    return performs
