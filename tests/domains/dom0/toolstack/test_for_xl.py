"""Descriptions in libxl's words, as Debian's xl reads them."""

from uuid import UUID

from domains.control.description import Action, DomainConfig
from domains.dom0.toolstack.for_xl import libxl_configuration


def test_actions_have_libxls_names() -> None:
    """Xen tools/libs/light/libxl_types.idl, libxl_action_on_shutdown: one is not xl's word with another dash."""
    names = set()
    for action in Action:
        config = DomainConfig("web", "/vmlinuz", on_crash=action)
        names.add(libxl_configuration(config, str(UUID(int=1)))["on_crash"])
    known = {
        "destroy",
        "restart",
        "restart_rename",
        "preserve",
        "coredump_destroy",
        "coredump_restart",
        "soft_reset",
    }
    assert names == known
