"""docs/xl-cfg-keys.md is what the tables of keys say."""

from __future__ import annotations

from scripts.keys_table import PAGE, page, rows_of


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run scripts/keys-table"


def test_each_key_has_one_fate_and_a_reason_that_fits_into_a_table() -> None:
    keys = [key for key, _, _ in rows_of()]
    assert len(keys) == len(set(keys))
    assert all(why and "|" not in why and "\n" not in why for _, _, why in rows_of())
