"""Whatever is broken, nothing is lost and nothing happens twice."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.fleet.chaos import chaos

pytestmark = pytest.mark.tools


def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    """Servers are killed and stopped, lines cut, Redis flushed: `make chaos ARGS="--seed N"` does the same again."""
    seed = secrets.randbits(32)
    with chaos(tmp_path, seed) as it:
        try:
            it.run(seconds=20)
        except AssertionError as exc:
            exc.add_note(f"seed {seed}, {dict(it.acts)}")
            raise
    assert it.turns.total() > 0
    assert it.acts.total() > 0
