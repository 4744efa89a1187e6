"""What is shown again to who comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.terminals.replay import Modes, find_sane_start, repeatable


@pytest.mark.parametrize(
    ("output", "start"),
    [
        (b"8;5;12mred\nnext", b"next"),
        (b"0;31mred\x1b[0mplain", b"\x1b[0mplain"),
        ("äöü".encode()[1:], "öü".encode()),
        (b"plain", b"plain"),
        (b"", b""),
        (b"\x80\x80", b""),
    ],
)
def test_output_is_cut_where_nothing_is_torn_apart(output: bytes, start: bytes) -> None:
    """Not inside a colour, nor inside a character: behind a line, else at an escape, else at a character."""
    assert start == output[find_sane_start(output) :]


@pytest.mark.parametrize(
    "question",
    [
        b"\x1b[c", b"\x1b[>c", b"\x1b[=0c", b"\x1b[0c", b"\x1bZ", b"\x1b[6n", b"\x1b[5n", b"\x1b[?6n", b"\x1b[?996n",
        b"\x1b[?2026$p", b"\x1b[4$p", b"\x1b[?4m", b"\x1b[>q", b"\x1b[>0q", b"\x1b[?u", b"\x1b[18t", b"\x1b[14;2t",
        b"\x1b[x", b"\x1b]10;?\x07", b"\x1b]11;?\x1b\\", b"\x1b]4;1;?\x07", b"\x1bP+q544e\x1b\\", b"\x1bP$qm\x1b\\",
        b"\x1b]52;c;?\x07", b"\x1b]52;c;c2VjcmV0\x1b\\",
        b"\xc2\x9a", b"\xc2\x9b6n", b"\xc2\x9b>c", b"\xc2\x9d11;?\xc2\x9c",
        b"\x1b]52;c;c2VjcmV0\xc2\x9c", b"\xc2\x90$qm\x1b\\",
    ],
)  # fmt: skip
def test_questions_and_the_clipboard_are_not_repeated(question: bytes) -> None:
    """A terminal that is shown old output does not type answers into the shell, nor change the clipboard."""
    assert b"before after" == repeatable(b"before " + question + b"after")


def test_a_string_that_the_next_sequence_ends_is_not_repeated() -> None:
    """Terminals take it for whole."""
    assert b"\x1b[1mbold" == repeatable(b"\x1b]52;c;c2VjcmV0\x1b[1mbold")


@pytest.mark.parametrize(
    "output",
    [
        b"\x1b[1;31mred\x1b[0m", b"\x1b[2J\x1b[H", b"\x1b[?1049h", b"\x1b[22;0;0t", b"\x1b]0;really?\x07",
        b"\x1b]8;;http://x/?\x07link\x1b]8;;\x07", b"\x1b[6 q", b"\x1b[!p", b"\x1b7\x1b8", "schön 🙂".encode(),
    ],
)  # fmt: skip
def test_everything_else_is_repeated(output: bytes) -> None:
    """Colours, titles, links, cursor movements."""
    assert output == repeatable(output)


def test_modes_are_the_last_that_were_set() -> None:
    """The alternate screen first; then the others as they were switched last."""
    modes = Modes()
    modes.feed(b"\x1b[?2004h text \x1b[?25l\x1b[?1049h\x1b[?1000;1006h\x1b[?1006l\x1b[?9999h")

    assert modes.is_full_screen
    assert b"\x1b[?1049h\x1b[?2004h\x1b[?25l\x1b[?1000h\x1b[?1006l" == modes.sequence()


def test_a_reset_forgets_the_modes() -> None:
    """After RIS a terminal is like a new one."""
    modes = Modes(b"\x1b[?1049h")
    modes.feed(b"\x1bc\x1b[?7l")

    assert not modes.is_full_screen
    assert b"\x1b[?7l" == modes.sequence()


@pytest.mark.parametrize("switch", [b"\x1b[?" + b"1" * 5000 + b"h", b"\x1b[?" + b"1;" * 50_000 + b"h"])
def test_a_switch_without_end_is_none(switch: bytes) -> None:
    """What no terminal would take is passed over, and what comes behind it counts."""
    assert b"\x1b[?25l" == Modes(switch + b"\x1b[?25l").sequence()


@given(
    st.lists(st.sampled_from([b"\x1b[?1h", b"\x1b[?1;25l", b"\x1b[?1049h", b"\x1bc", b"x\n"])), st.integers(0)
)
def test_modes_do_not_depend_on_how_output_is_read(parts: list[bytes], cut: int) -> None:
    """Two halves give the same as the whole, and so does what is written down in between."""
    cut = cut % (len(parts) + 1)
    whole = Modes(b"".join(parts))
    halves = Modes(Modes(b"".join(parts[:cut])).sequence())
    halves.feed(b"".join(parts[cut:]))

    assert (whole.is_full_screen, set(whole.sequence().split(b"\x1b"))) == (
        halves.is_full_screen,
        set(halves.sequence().split(b"\x1b")),
    )
