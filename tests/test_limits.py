"""Limits of a rate: who counts as one, and that nobody gets out of them."""

from __future__ import annotations

import pytest

from agentsrv.limits import MAX_NAMES, Rates, household


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8:0:0:ffff::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("", "", True),
    ],
)
def test_who_counts_as_one(one: str, other: str, same: bool) -> None:
    """An address of IPv4 in either form, and what one customer gets of IPv6."""
    assert (household(one) == household(other)) is same


def test_many_new_names_do_not_free_who_has_used_up_all() -> None:
    """However many addresses a stranger has: who has nothing left stays so, and memory is bounded."""
    rates = Rates(10)
    while not rates.take("eager"):
        pass
    for number in range(3 * MAX_NAMES):
        rates.take(f"n{number}")

    assert rates.take("eager")
    assert len(rates._left) <= MAX_NAMES
