"""The bounded memory of a terminal, which survives its process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsrv.terminals.replay import shown_again
from agentsrv.terminals.ring import CAPACITY_BYTES, HEADER_BYTES, Ring

LINE = b"0123456789 \x1b[1mbold\x1b[0m text\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Ring.create(tmp_path / "ring")
    return tmp_path / "ring"


@pytest.fixture
def ring(path: Path) -> Iterator[Ring]:
    ring = Ring(path)
    yield ring
    ring.close()


def shown(ring: Ring) -> bytes:
    """What somebody sees who has just come."""
    return shown_again(*ring.snapshot())[0]


def put(ring: Ring, data: bytes) -> None:
    while data:
        room = ring.room(4096)
        size = min(len(room), len(data))
        room[:size] = data[:size]
        ring.advance(size)
        ring.keep()
        data = data[size:]


def test_what_is_put_in_comes_out(ring: Ring) -> None:
    """Byte for byte, from any position."""
    put(ring, b"hello ")
    put(ring, b"world")

    assert b"hello world" == shown(ring)
    assert b"lo wo" == ring.read(3, 5)
    assert b"" == ring.read(ring.end, 100)


def test_it_keeps_the_end_and_begins_at_a_line(ring: Ring) -> None:
    """After much output the ring has the last 200 KiB and more, from the beginning of a line."""
    written = LINE * 40_000
    put(ring, written)
    kept = shown(ring)

    assert kept.startswith(b"0123456789 ")
    assert written.endswith(kept)
    assert 200 * 1024 < len(kept) <= CAPACITY_BYTES
    assert len(written) == ring.end


def test_what_was_dropped_is_not_wholly_forgotten(ring: Ring) -> None:
    """A full-screen program that has been drawing for hours is still shown on the right screen."""
    put(ring, b"$ vim\r\n\x1b[?1049h\x1b[?1h\x1b[?25l" + LINE * 40_000 + b"\x1b[?25h")

    assert shown(ring).startswith(b"\x1b[?1049h\x1b[?1h\x1b[?25l0123456789")
    assert shown_again(*ring.snapshot())[1]


def test_the_next_process_finds_it(path: Path, ring: Ring) -> None:
    """Another process that opens the file while this one still has it sees all that was put in."""
    put(ring, b"\x1b[?2004h" + LINE * 20_000)
    again = Ring(path)

    assert (ring.start, ring.end, shown(ring)) == (again.start, again.end, shown(again))
    again.close()


def test_reads_land_in_it(ring: Ring) -> None:
    """`room` can be read into, also where the ring wraps around."""
    reader, writer = os.pipe()
    put(ring, b"x" * (CAPACITY_BYTES - 3))
    os.write(writer, b"abcdef")
    for _ in range(2):
        ring.advance(os.readv(reader, [ring.room(4096)]))
    os.close(reader)
    os.close(writer)

    assert b"abcdef" == ring.read(ring.end - 6, 6)


@pytest.mark.parametrize("header", [bytes(40), b"garbage!" * 5, b"AGTRING1" + b"\xff" * 32])
def test_a_file_that_is_not_intact_is_empty(path: Path, header: bytes) -> None:
    """A power failure costs the scrollback, not the server."""
    with path.open("r+b") as file:
        file.write(header)
    ring = Ring(path)

    assert b"" == shown(ring)
    put(ring, b"new")
    assert b"new" == shown(ring)
    ring.close()


def test_a_file_that_is_cut_short_harms_nobody(path: Path, ring: Ring) -> None:
    """Another process truncates it while it is in use: the terminal goes on, the next server starts anew."""
    put(ring, b"before ")
    os.truncate(path, 0)
    put(ring, LINE * 20_000 + b"after")
    again = Ring(path)

    assert shown(ring).endswith(b"after")
    assert b"" == shown(again) or shown(again).endswith(b"after")
    again.close()


def test_it_is_for_the_owner_alone(path: Path) -> None:
    """Nobody else reads what was shown."""
    assert 0o600 == path.stat().st_mode & 0o777
    assert HEADER_BYTES + CAPACITY_BYTES == path.stat().st_size


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 70_000), st.sampled_from([b"a", b"\n", b"\x1b[?25l\n", b"\xc3\xa4"])))
)
def test_any_output_ends_up_the_same(path: Path, parts: list[tuple[int, bytes]]) -> None:
    """However output comes, the ring holds its end, at most its capacity, and never begins inside a character."""
    ring = Ring(path)
    begin = ring.end
    written = b"".join(part * (size // len(part)) for size, part in parts)
    put(ring, written)
    kept = ring.read(max(ring.start, begin), CAPACITY_BYTES)

    assert written.endswith(kept)
    assert ring.end - ring.start <= CAPACITY_BYTES
    assert len(kept) >= min(len(written), CAPACITY_BYTES // 2)
    kept.decode()
    ring.close()
