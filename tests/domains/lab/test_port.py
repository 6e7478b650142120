"""port: what a port changes. Negative control: a privileged or a changed instruction that does not belong there is seen."""

from functools import cache

from domains.lab.experiments.port import BARE, COMMON, XEN, Code, claims, code


@cache
def codes() -> tuple[dict[str, Code], dict[str, Code]]:
    return (
        {name: code("bare", name) for name in (*COMMON, *BARE)},
        {name: code("xen", name) for name in (*COMMON, *XEN)},
    )


def failing(bare: dict[str, Code], xen: dict[str, Code]) -> list[str]:
    return [claim.text for claim in claims(bare, xen) if not claim.holds]


def test_the_port_has_none_of_what_it_replaces() -> None:
    bare, xen = codes()
    assert failing(bare, xen) == []
    assert bare["kernel.c"].instructions != xen["kernel.c"].instructions
    assert bare["fault.c"] == xen["fault.c"]


def test_what_does_not_belong_there_is_seen() -> None:
    bare, xen = codes()
    for planted, complaint in (
        ("movl %eax, %cr3", "the port has no privileged instruction"),
        ("cli", "the port has no privileged instruction"),
        ("popfl", "nor a sensitive one"),
    ):
        file = xen["xen.c"]
        changed = xen | {"xen.c": Code(file.lines, [*file.instructions, planted])}
        assert failing(bare, changed) == [complaint]
    file = xen["fault.c"]
    changed = xen | {"fault.c": Code(file.lines, ["nop", *file.instructions[1:]])}
    assert failing(bare, changed) == ["in the files for both, nothing but loads of segments changes"]
