"""dom0: each call's answer, exact. Negative control: were the other domain privileged, two claims would fail."""

from functools import cache

from domains.lab.experiments.dom0 import Answer, ask_all, claims

REFUSED = {
    "domctl createdomain": "EPERM",
    "domctl getdomaininfo": "EPERM",
    "domctl max_mem": "EPERM",
    "domctl pausedomain": "EPERM",
    "domctl unpausedomain": "EPERM",
    "domctl irq_permission": "EPERM",
    "sysctl getdomaininfolist": "EPERM",
    "memory_op populate_physmap": "0 of 1 frames",
    "memory_op current_reservation": "EPERM",
    "update_va_mapping_otherdomain": "EPERM",
    "event_channel_op alloc_unbound": "EPERM",
    "event_channel_op status": "EPERM",
    "event_channel_op reset": "EPERM",
    "event_channel_op bind_pirq": "EPERM",
    "physdev_op irq_status_query": "EINVAL",
    "grant_table_op query_size": "GNTST_permission_denied",
    "sched_op remote_shutdown": "EPERM",
    "domctl destroydomain": "EPERM",
}
"""What a domain without privilege is told about another domain, and about the machine."""


@cache
def answers() -> tuple[list[Answer], bool]:
    return ask_all()


def test_about_others() -> None:
    found, same = answers()
    beyond = [one for one in found if one.asked.about in ("another domain", "the machine")]
    assert {one.asked.name: one.domu for one in beyond} == REFUSED
    assert {one.dom0 for one in beyond} == {"0"}
    assert same


def test_about_itself() -> None:
    own = [(one.asked.name, one.dom0, one.domu) for one in answers()[0] if one.asked.about == "itself"]
    assert own == [
        ("memory_op populate_physmap", "0", "0"),
        ("memory_op current_reservation", "0", "0"),
        ("event_channel_op alloc_unbound", "0", "0"),
        ("physdev_op set_iopl", "0", "0"),
        ("grant_table_op query_size", "0", "0"),
    ]


def test_a_grant_is_nobodys_right() -> None:
    (one,) = (one for one in answers()[0] if one.asked.name == "grant_table_op map_grant_ref")
    assert (one.dom0, one.domu) == ("GNTST_general_error", "GNTST_general_error")


def test_were_the_other_domain_privileged() -> None:
    found, same = ask_all(privileged=True)
    assert [claim.holds for claim in claims(found, same=same)] == [True, False, False, False, True]
