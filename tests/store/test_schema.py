"""A migration that was released is never edited: databases that have it would not get the change."""

from __future__ import annotations

from hashlib import sha256

from agentsrv.store.migrate import migrations_directory

# While a migration is unreleased, edit it and put the new sum here; afterwards write another migration.
# The sums: sha256sum migrations/*
FROZEN = {
    "0001.initial.sql": "c8d15b47e720b379058f40df3e4d9f963acd47d9ee2747b9ab1b495d1a92ee05",
    "0002.working-together.sql": "96803654513ea1d454e11dade4878891e8534b9221fc27a614db17e69d13827a",
}


def test_shipped_migrations_are_frozen() -> None:
    """Every migration is listed, and is byte for byte what was shipped."""
    found = {file.name: sha256(file.read_bytes()).hexdigest() for file in migrations_directory().iterdir()}

    assert found == FROZEN


def test_migrations_run_inside_a_transaction() -> None:
    """A migration that opts out of its transaction could be half applied when it is killed."""
    for file in migrations_directory().iterdir():
        assert "transactional:" not in file.read_text()
