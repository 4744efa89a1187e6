"""Reading an agent's stdout from the file that it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.lines import OVERSIZED_KEPT_BYTES, LineFramer, OversizedLine
from agentsrv.runner.spool import SpoolTail, is_spool

LIMIT = 10
READ_BYTES = 1 << 18


def feed_in_pieces(framer: LineFramer, data: bytes, cuts: list[int]) -> list[bytes | OversizedLine]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [line for start, end in pairwise(places) for line in framer.feed(data[start:end])]


@given(
    st.lists(st.sampled_from([b"", b"a", b"12345", b"x" * LIMIT, b"y" * (LIMIT + 1), b"z" * 35])), st.data()
)
def test_lines_do_not_depend_on_how_they_were_read(pieces: list[bytes], data: st.DataObject) -> None:
    """A second reading of the same bytes gives the same lines, so the same sequence numbers."""
    text = b"\n".join(pieces)
    cuts = data.draw(st.lists(st.integers(min_value=0)))
    framer = LineFramer(LIMIT, offset=100)
    lines = feed_in_pieces(framer, text, cuts)
    *whole, rest = [
        OversizedLine(line, len(line)) if len(line) > LIMIT else line for line in text.split(b"\n")
    ]
    assert (lines, framer.rest()) == (whole, rest)
    assert framer.offset == 100 + (text.rfind(b"\n") + 1)


@given(st.binary(), st.lists(st.integers(min_value=0)))
def test_no_byte_is_lost(data: bytes, cuts: list[int]) -> None:
    """Whatever an agent writes comes out again, joined by newlines."""
    framer = LineFramer(1 << 20)
    assert b"\n".join([*feed_in_pieces(framer, data, cuts), framer.rest()]) == data  # type: ignore[list-item]


@pytest.mark.parametrize("read_bytes", [1 << 16, 1 << 20, 60 << 20])
def test_line_over_the_limit_is_cut_and_says_so(read_bytes: int) -> None:
    """Of a 50 MB line the first 64 KiB and the length are kept, and the lines around it are whole."""
    data = b"before\n" + b"x" * (50 << 20) + b"\nafter\nrest"
    framer = LineFramer(16 << 20)
    lines = feed_in_pieces(framer, data, list(range(0, len(data), read_bytes)))
    assert lines == [b"before", OversizedLine(b"x" * OVERSIZED_KEPT_BYTES, 50 << 20), b"after"]
    assert (framer.rest(), framer.offset) == (b"rest", len(data) - len(b"rest"))


def test_tail_reads_on_where_it_was(tmp_path: Path) -> None:
    """A reader that starts at a stored offset sees only what is after it, as it is written."""
    path = tmp_path / "out"
    path.write_bytes(b"0123456789")
    tail = SpoolTail(path, offset=4)
    assert [tail.read(3), tail.read(), tail.read(), tail.offset] == [b"456", b"789", b"", 10]
    with path.open("ab") as file:
        file.write(b"more")
    assert (tail.read(), tail.offset, tail.size()) == (b"more", 14, 14)
    tail.close()
    tail.close()


def test_consumed_blocks_are_given_back_and_the_rest_stays(tmp_path: Path) -> None:
    """A long session does not fill the disk with what the server has already stored."""
    path = tmp_path / "out"
    path.write_bytes(b"x" * 1_000_000 + b"unread")
    before = path.stat().st_blocks
    tail = SpoolTail(path, offset=1_000_000)
    if not tail.give_back(1_000_000):
        pytest.skip("this file system cannot punch holes")
    assert path.stat().st_blocks <= before // 50
    assert (tail.read(), path.stat().st_size) == (b"unread", 1_000_006)
    tail.close()


def test_giving_back_nothing_is_fine(tmp_path: Path) -> None:
    """Less than a block cannot be given back; of a closed spool nothing need be."""
    (tmp_path / "out").write_bytes(b"short")
    tail = SpoolTail(tmp_path / "out")
    is_given_back = tail.give_back(5)
    tail.close()

    assert (is_given_back, tail.give_back(5)) == (True, False)
    assert (tmp_path / "out").read_bytes() == b"short"


def test_a_spool_is_the_file_that_was_opened(tmp_path: Path) -> None:
    """What an agent puts in its place later is not read, not waited for and loses nothing."""
    path = tmp_path / "out"
    path.write_bytes(b"own")
    tail = SpoolTail(path)
    path.unlink()
    (tmp_path / "other").write_bytes(b"x" * 100_000)
    path.symlink_to("other")

    assert (tail.read(), tail.give_back(100_000), is_spool(path)) == (b"own", True, False)
    assert (tmp_path / "other").read_bytes() == b"x" * 100_000
    tail.close()


def test_file_that_cannot_be_opened_is_no_spool(tmp_path: Path) -> None:
    """An agent can see to that also where the server is root: what runs as a program cannot be written."""
    shutil.copy("/bin/sleep", tmp_path / "out")
    with subprocess.Popen([tmp_path / "out", "60"]) as program:
        found = is_spool(tmp_path / "out")
        program.kill()

    assert not found


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_no_spool(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Nor is what is not there."""
    make(tmp_path / "out")

    assert [is_spool(tmp_path / name) for name in ("out", "none")] == [False, False]


@pytest.mark.parametrize("behind", [b"", b"x\nnext\n"])
def test_a_hole_is_passed_over_as_if_it_were_read(tmp_path: Path, behind: bytes) -> None:
    """A terabyte that nobody wrote takes no time; the line that it is in is as long as it says."""
    path = tmp_path / "out"
    path.write_bytes(b"first\nbegin")
    os.truncate(path, 1 << 40)
    with path.open("ab") as file:
        file.write(behind)
    tail, framer = SpoolTail(path), LineFramer(OVERSIZED_KEPT_BYTES)
    lines = framer.feed(tail.read(READ_BYTES))
    framer.skip(tail.skip_hole(OVERSIZED_KEPT_BYTES))
    while data := tail.read(READ_BYTES):
        lines += framer.feed(data)
    first, *others = lines if behind else [*lines, framer.rest()]
    cut = others[0]

    assert (b"first", tail.size()) == (first, tail.offset)
    assert isinstance(cut, OversizedLine)
    assert (b"begin".ljust(OVERSIZED_KEPT_BYTES, b"\0"), (1 << 40) - 6 + len(behind[:1])) == (
        cut.kept,
        cut.total,
    )
    assert others[1:] == ([b"next"] if behind else [])
    tail.close()
