"""Every command of xl's, and what to do here for those that xenctl does not have. docs/xl-commands.md is made of this.

Source: xl(1) and Xen's tools/xl/xl_cmdtable.c, of Xen 4.17 and of today.
"""

from __future__ import annotations

from typing import Final

RECEIVING: Final = (
    "a machine's Dom0 takes domains by itself: 'xenctl start --listen', and 'xenctl migrate' on the other one"
)
PCI: Final = "the host's PCI devices are not given to domains: give a file as disk=, an interface as vif="
USB: Final = "the host's USB devices are not given to domains: give a file as disk="
DISPLAY: Final = "there is no device model and no display: use 'xenctl console'"
SOUND: Final = "there is no sound: give disks and network interfaces"
TPM: Final = "there is no TPM: give a disk, on which the domain keeps its secrets"
ACPI: Final = "domains have no ACPI buttons: use 'xenctl shutdown'"
FLASK: Final = "there is no XSM policy: Dom0 alone is privileged, and the machine is its owner's alone"
PSR: Final = "the CPUs are emulated and have no resource controls: use 'xenctl sched-credit' and CPU pools"
CDROM: Final = "xl has it for domains with a device model: use 'xenctl block-detach' and 'xenctl block-attach' with devtype=cdrom"
STORE: Final = "use Xen's own xenstore tools, with XENSTORED_PATH as 'xenctl info' shows it"

REFUSED: Final[dict[str, str]] = {
    "migrate-receive": RECEIVING,
    "remus": "there are no checkpoints to another machine: 'xenctl migrate' moves a domain, 'xenctl save -c' keeps its state",
    "suspend": "a domain suspends itself, if it can: to stop it for a while use 'xenctl pause'",
    **dict.fromkeys(("cd-insert", "cd-eject"), CDROM),
    **dict.fromkeys(("pci-attach", "pci-detach", "pci-list"), PCI),
    **dict.fromkeys(("pci-assignable-add", "pci-assignable-remove", "pci-assignable-list"), PCI),
    **dict.fromkeys(("usbctrl-attach", "usbctrl-detach", "usbdev-attach", "usbdev-detach", "usb-list"), USB),
    "vncviewer": DISPLAY,
    **dict.fromkeys(("vkb-attach", "vkb-list", "vkb-detach"), DISPLAY),
    **dict.fromkeys(("vdispl-attach", "vdispl-list", "vdispl-detach"), DISPLAY),
    **dict.fromkeys(("vsnd-attach", "vsnd-list", "vsnd-detach"), SOUND),
    **dict.fromkeys(("vtpm-attach", "vtpm-list", "vtpm-detach"), TPM),
    "qemu-monitor-command": "there is no device model: 'xenctl debug-keys' asks the hypervisor, 'xenctl sysrq' a Linux guest",
    "channel-list": "domains have no channels: use 'xenctl console', or xenstore",
    "button-press": ACPI,
    "sharing": "no pages are shared between domains: 'xenctl list' shows the memory of each",
    "set-parameters": "a machine's parameters are those of 'xenctl start'; schedulers have their 'xenctl sched-…' commands",
    **dict.fromkeys(("getenforce", "setenforce", "loadpolicy"), FLASK),
    "devd": "a driver domain's back ends start by themselves: set driver_domain=1 in its description",
    **dict.fromkeys(("psr-hwinfo", "psr-cmt-attach", "psr-cmt-detach", "psr-cmt-show"), PSR),
    **dict.fromkeys(("psr-cat-set", "psr-cat-show", "psr-mba-set", "psr-mba-show"), PSR),
    "dt-overlay": "x86 has no device tree: set disk= and vif= in the description",
    **dict.fromkeys(
        ("xenstore-quota-get", "xenstore-quota-set"),
        "the store's quotas are fixed: docs/xenstore.md has them",
    ),
}
"""What to do in place of each command of xl's that is not in commands.py."""

OTHERS: Final[dict[str, str]] = {
    **dict.fromkeys(("xenstore", "xenstore-read", "xenstore-write", "xenstore-list"), STORE),
    **dict.fromkeys(("xenstore-rm", "xenstore-watch", "xenstore-chmod"), STORE),
    "reset": "use 'xenctl destroy' and 'xenctl create'",
    "ls": "use 'xenctl list'",
    "log": "use 'xenctl dmesg'",
    "help": "use 'xenctl --help'",
}
"""What people try that is no command of xl's either."""

XL_COMMANDS: Final = (
    "create", "config-update", "list", "destroy", "shutdown", "reboot", "pci-attach", "pci-detach",
    "pci-list", "pci-assignable-add", "pci-assignable-remove", "pci-assignable-list", "pause",
    "unpause", "console", "vncviewer", "save", "migrate", "restore", "migrate-receive", "suspend",
    "resume", "dump-core", "cd-insert", "cd-eject", "mem-max", "mem-set", "button-press", "vcpu-list",
    "vcpu-pin", "vcpu-set", "vm-list", "info", "sharing", "sched-credit", "sched-credit2", "sched-rtds",
    "domid", "domname", "rename", "trigger", "sysrq", "debug-keys", "set-parameters", "dmesg", "top",
    "network-attach", "network-list", "network-detach", "channel-list", "block-attach", "block-list",
    "block-detach", "vtpm-attach", "vtpm-list", "vtpm-detach", "vkb-attach", "vkb-list", "vkb-detach",
    "vdispl-attach", "vdispl-list", "vdispl-detach", "vsnd-attach", "vsnd-list", "vsnd-detach",
    "uptime", "claims", "cpupool-create", "cpupool-list", "cpupool-destroy", "cpupool-rename",
    "cpupool-cpu-add", "cpupool-cpu-remove", "cpupool-migrate", "cpupool-numa-split", "getenforce",
    "setenforce", "loadpolicy", "remus", "devd", "psr-hwinfo", "psr-cmt-attach", "psr-cmt-detach",
    "psr-cmt-show", "psr-cat-set", "psr-cat-show", "psr-mba-set", "psr-mba-show", "usbctrl-attach",
    "usbctrl-detach", "usbdev-attach", "usbdev-detach", "usb-list", "qemu-monitor-command",
    "dt-overlay", "xenstore-quota-get", "xenstore-quota-set",
)  # fmt: skip
"""All commands of xl's, in its own order."""

MISSING_OPTIONS: Final[dict[str, str]] = {
    "create": "`-d` (what a description says is shown by `list --long`), `--ignore-global-affinity-masks` (there are none)",
    "config-update": "`-d`",
    "destroy": "`-f`: Dom0 is never destroyed, but its machine stopped",
    "vcpu-pin": "`--ignore-global-affinity-masks`: there are none",
    "info": "`-n`: a machine is one NUMA node",
    "console": "`-t serial`, `-t vuart`: a domain has one PV console",
    "migrate": "`-s`, `-C`, `-D`: machines connect by themselves, and a domain keeps its description and gets another id",
    "save": "`-D`: a restored domain has another id",
    "restore": "`-c` (use `xenctl console`), `-d`, `-F`, `-e`, `-V`, `-A`: no process waits for a domain; there is no display",
    "trigger": "`power`, `sleep`, `reset`, `init`, `s3resume`: PV and PVH domains have none of them on Xen either",
    "shutdown": "`-ww`",
    "reboot": "`-ww`",
    "cpupool-numa-split": "all: a machine is one NUMA node, so that there is nothing to split",
}
"""Options of xl's that xenctl's command does not have."""
