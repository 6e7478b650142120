"""Grants written down at any moment of any work, and read back, are the same grants: everything that follows is as
consistent as it was before.

Negative control: a table that is read back without its active entries, which the next recount finds.
"""

import pytest
from hypothesis import Phase, settings

from hypervisor.grants.grant_table import GrantsRecord, GrantTable
from tests.hypervisor.grants.granting import Guest, granting_domains
from tests.hypervisor.grants.test_random_grants import RandomGrants


class WrittenDown(RandomGrants):
    """The same random work, with all tables written down and read back every few hypercalls."""

    def offer_much(self, guest: Guest) -> None:
        self.house.written_down_every = 15
        super().offer_much(guest)


TestWrittenDown = WrittenDown.TestCase
TestWrittenDown.settings = settings(
    max_examples=5, stateful_step_count=40, deadline=None, phases=[Phase.reuse, Phase.generate]
)


def test_a_table_without_its_active_entries_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GrantTable.restore

    def forgetful(self: GrantTable, record: GrantsRecord) -> None:
        whole(self, {**record, "active": []})

    with granting_domains() as house:
        house.dom1.offer(8, 0, house.dom1.page(1).mfn)
        house.dom0.map(house.dom1, 8, house.dom0.page(20).va)
        with monkeypatch.context() as patch:
            patch.setattr(GrantTable, "restore", forgetful)
            before = house.dom1.built.domain.grants
            with pytest.raises(AssertionError):
                house.write_down_and_read_back()
        assert before.active
