"""A Python guest's image names its class, and nothing else is taken for one."""

from pathlib import Path

import pytest

from domains.guests.hello import Hello
from domains.kernel.guest_class import load_class
from domains.kernel.image import MAX_SPEC, image_spec, make_image


def test_an_image_is_one_page_that_gives_its_class_back() -> None:
    image = make_image("domains.guests.hello:Hello")
    assert len(image) == 4096
    spec = image_spec(image)
    assert spec == "domains.guests.hello:Hello"
    assert load_class(spec) is Hello


@pytest.mark.parametrize("spec", ["", "module", "module:", ":Class", "module:no name", "m" * MAX_SPEC + ":C"])
def test_a_malformed_name_makes_no_image(spec: str) -> None:
    with pytest.raises(ValueError):
        make_image(spec)


def test_another_kernel_is_no_python_image() -> None:
    assert image_spec(b"\x7fELF" + bytes(4092)) is None


def test_a_name_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="does not end"):
        image_spec(b"XENOPY\0\0" + b"x" * 4088)


def test_a_class_can_come_from_a_file(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("from domains.kernel.guest import Guest\nclass Mine(Guest): ...\n")
    assert load_class(f"{source}:Mine").__name__ == "Mine"


def test_a_class_that_is_no_guest_is_refused() -> None:
    with pytest.raises(TypeError, match="no Guest"):
        load_class("pathlib:Path")
