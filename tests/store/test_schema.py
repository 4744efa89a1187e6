"""A migration that was released is never edited: databases that have it would not get the change."""

from __future__ import annotations

from hashlib import sha256

from agentsrv.store.migrate import migrations_directory

# While a migration is unreleased, edit it and put the new sum here; afterwards write another migration.
# The sums: sha256sum migrations/*
FROZEN = {
    "0001.initial.sql": "c8d15b47e720b379058f40df3e4d9f963acd47d9ee2747b9ab1b495d1a92ee05",
    "0002.working-together.sql": "96803654513ea1d454e11dade4878891e8534b9221fc27a614db17e69d13827a",
    "0003.costs.sql": "14a70bb1800137467591bd905622ab1b6503d0d9bcf6863483c623bbc5cafcab",
    "0004.setting-sources.sql": "3dfb1c3190f8371f7bb37bde71290c1691434d64227aff051e014ec089674c99",
    "0005.stopping.sql": "ec9bc6bfc9ded51a036e01f746ba653012ed1ede6f3d40c526213f480039475d",
    "0006.preview.sql": "57754f10a5a19883cec4615d01467831b3fbfbbe682e50f09123be0009e4685d",
    "0007.folds.sql": "2fb8a98883228f1df3c370bb6693066bff44cfbc98d4804f27a048d255c93453",
    "0008.archive.sql": "c90e575aac65615a64e9e4d03d346dec46bb9bce933225114ea69dfe969d9941",
    "0009.keys.sql": "ea49e8b85cafd965313677e591d9663c7c4336c77f24f41ee5e015d757e9f0a1",
    "0011.permission-mode.sql": "ea716ba965cf582c89fd0de2a26f8efd70d60adefc6db927175cfa3c6879b27f",
    "0010.result.sql": "cac17ae184b9363d0ff942eb5fc73cffb9820a2424b0e3d13394f87afc321123",
    "0012.timers.sql": "c434c9685237a2c962a9b677fa40f558bf476f7afbbde771dc8eea925db612ed",
    "0013.labels.sql": "72d46c94ab91ffd2b5f2a8de85cea42506b3765d14f6cbe97dd50eba4dfcb97d",
    "0014.session-costs.sql": "f4519bfb71f07d3fc925d5669b967e0b2db17b5f36c6fa572b38051857c8f833",
    "0015.marks.sql": "fe5e9b0575788ed6813731d387ff61657262a994d3a27ab2b8e2eeb532e7f3e6",
    "0016.worktrees.sql": "4731e2b5940b01872c0cbe567ffc95c04520fd64f4a865b1e1b2d15ef2870425",
    "0017.append-only-audit.sql": "07aa0a6e623a1660316b96e0e81ff3a788e2236e46f4ea1a97138306aae7eb2a",
}


def test_shipped_migrations_are_frozen() -> None:
    """Every migration is listed, and is byte for byte what was shipped."""
    found = {file.name: sha256(file.read_bytes()).hexdigest() for file in migrations_directory().iterdir()}

    assert found == FROZEN


def test_migrations_run_inside_a_transaction() -> None:
    """A migration that opts out of its transaction could be half applied when it is killed."""
    for file in migrations_directory().iterdir():
        assert "transactional:" not in file.read_text()
