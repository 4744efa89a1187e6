"""What is shown again to who comes back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsrv.terminals.replay import Modes, is_ordinary, repeatable
from tests.terminals.answering import effects


@pytest.mark.parametrize(
    ("output", "rest"),
    [
        (b"8;5;12mred\nnext", b"next"),
        (b"0;31mred\x1b[0mplain", b"\x1b[0mplain"),
        ("äöü\n".encode(), b""),
        (b"abc\x1b]2;title\nof two lines\x07next\nline", b"next\nline"),
        (b"plain", b""),
        (b"", b""),
    ],
)
def test_output_is_cut_where_nothing_is_torn_apart(output: bytes, rest: bytes) -> None:
    """Not inside a sequence, nor inside a character: behind a line, else where a sequence begins or ends."""
    assert rest == output[Modes().cut(output, 4) :]


@pytest.mark.parametrize(
    "question",
    [
        b"\x1b[c", b"\x1b[>c", b"\x1b[=0c", b"\x1b[0c", b"\x1bZ", b"\x1b[6n", b"\x1b[5n", b"\x1b[?6n", b"\x1b[?996n",
        b"\x1b[?2026$p", b"\x1b[4$p", b"\x1b[?4m", b"\x1b[>q", b"\x1b[>0q", b"\x1b[?u", b"\x1b[18t", b"\x1b[14;2t",
        b"\x1b[x", b"\x1b]10;?\x07", b"\x1b]11;?\x1b\\", b"\x1b]4;1;?\x07", b"\x1bP+q544e\x1b\\", b"\x1bP$qm\x1b\\",
        b"\x1b]52;c;?\x07", b"\x1b]52;c;c2VjcmV0\x1b\\",
        b"\x1b[6\x08\x00n".replace(b"\x08", b""), b"\x1b[\x006n", b"\x1b\x00[6n", b"\x1b[c".replace(b"c", b"\x01c"),
        b"\x05", b"\x07", b"\x1b[1$w", b"\x1b[2$w", b"\x1b[1;1;1;1;1;1*y", b"\x1b[?1;1;0S",
        b"\x1b[>0c",
        b"\x1b[0'z", b"\x1b['|", b"\x1b[2;4y", b"\x1b[5i", b"\x1b[?5i", b"\x1b[2h", b"\x1b[?2048h",
        b"\x1b[?2026h", b"\x1b[?2l",
        b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\", b"\x1b_Ga=T,f=100;AAAA\x1b\\", b"\x1b^x\x1b\\",
        b"\x1bXx\x1b\\",
        b"\x1b]052;c;c2VjcmV0\x07", b"\x1b]1337;Copy=:c2VjcmV0\x07", b"\x1b]1337;ReportCellSize\x07",
        b"\x1b]5522;type=read\x07",
        b"\x1b]21;foreground=?\x07", b"\x1b]9;done\x07", b"\x1b]99;;done\x07", b"\x1b]777;notify;a;b\x07",
        b"\x1b]50;?\x07",
        b"\x1b]133;D\x07", b"\x1b]633;A\x07", b"\x1b]22;?__current__\x07", b"\x1b]104;?\x07", b"\x1b]012;?\x07",
        b"\x1bPtmux;\x1b\x1b]52;c;c2VjcmV0\x07\x1b\\", b"\x1bP1$r0m\x1b\\", b"\x1bP0;1|17/61\x1b\\",
        b"\x1b%@", b"\x1b G",
        b"\xc2\x9a", b"\xc2\x9b6n", b"\xc2\x9b>c", b"\xc2\x9d11;?\xc2\x9c",
        b"\x1b]52;c;c2VjcmV0\xc2\x9c", b"\xc2\x90$qm\x1b\\",
    ],
)  # fmt: skip
def test_questions_and_the_clipboard_are_not_repeated(question: bytes) -> None:
    """A terminal that is shown old output does not type answers into the shell, nor change the clipboard."""
    assert b"before after" == repeatable(b"before " + question + b"after")
    assert b"before" == repeatable(b"before" + question)


@pytest.mark.parametrize(
    "output",
    [
        b"\x1b[\x1b[6n6n", b"\x1b]52;c;\x1b]52;c;QUJD\x07QUJD\x07", b"\x1b[\x1b\x05[6n6n", b"\x1b[\x186n",
        b"\x1b[6\x1an",
        b"\x1b\x1b[6n[6n", b"\xc2\x1b[c\x9b6n", b"\xc2\x07\x9b6n", b"\xe2\x9b6n", b"\x9b6n",
        b"\xc0\x9b[6n", b"\x1b[?25\x05h",
        b"\x1b]2;\xc2\x9b6n\x07", b"\x1b]2;a\x1b[6n\x07", b"\x1bP\xc2\x9d52;c;QUJD\x07", b"\x1b]0;\x05\x07",
    ],
)  # fmt: skip
def test_nothing_is_made_by_what_is_left_out(output: bytes) -> None:
    """Sequences within sequences, broken off and torn apart: what is left has no effect either."""
    assert [] == effects(repeatable(output))


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (b"text\x1b[1;3", b"\x1b[1;3"),
        (b"text\x1b", b"\x1b"),
        (b"text\xe2\x94", b"\xe2\x94"),
        (b"text\x1b]2;a tit", b"\x1b]2;a tit"),
        (b"text\x1b]52;c;QUJD", b""),
        (b"text\x1b]5", b""),
        (b"text\xc2\x9d52;c;QUJD", b""),
        (b"text\x1b_Ga=q", b""),
        (b"text\x1bP+q", b""),
    ],
)
def test_what_the_next_read_completes_is_kept_when_it_is_harmless(output: bytes, kept: bytes) -> None:
    """A sequence, a character, a title; not the beginning of what would copy or ask."""
    assert b"text" + kept == repeatable(output)


PIECES = st.sampled_from(
    [
        *(bytes([byte]) for byte in (*range(0x21), 0x7F, 0x80, 0x9B, 0x9C, 0x9D)),
        *(bytes([byte]) for byte in b"0126;:?>=<!$*'\"[]P_^X\\cnuqyxpmhltZGat"),
        b"\xc2", b"\xc2\x9b", b"\xc2\x9d", b"\xc2\x90", b"\xc2\x9c", b"\xe2\x94", b"\xc3\xa4", b"\x1b[",
        b"\x1b]", b"\x1bP", b"\x1b\\",
        b"52;c;", b"\x1b[?", b"\x1b[>", b"6n", b"$q", b"\x1b_G", b"2;t", b"10;?", b"1049h", b"text",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map(b"".join))
@settings(max_examples=1000)
def test_no_output_makes_a_terminal_answer_copy_or_ring(output: bytes) -> None:
    """Whatever a program has printed: a terminal that is shown it again says nothing and does nothing but draw."""
    shown = repeatable(output)

    assert [] == effects(shown)
    assert shown == repeatable(shown)


@given(st.lists(PIECES, max_size=30).map(b"".join))
@settings(max_examples=200)
def test_modes_of_any_output_make_a_terminal_do_nothing_either(output: bytes) -> None:
    """They are kept in a bounded room, say the same when read again, and only set what lasts."""
    sequence = Modes(output).sequence()

    assert [] == effects(sequence)
    assert sequence == Modes(sequence).sequence()
    assert len(sequence) < 2000


@given(st.lists(PIECES, max_size=30).map(b"".join), st.integers(0, 60))
@settings(max_examples=200)
def test_output_is_cut_at_most_where_it_ends_and_at_least_where_asked(output: bytes, size: int) -> None:
    """A ring makes as much room as it needs, whatever is in it."""
    assert min(size, len(output)) <= Modes().cut(output, size) <= len(output)


@given(
    st.lists(
        st.sampled_from(
            [
                b"text\n",
                b"\x1b[1;31m",
                b"\x1b[K",
                b"\x1b[?25l",
                b"\x1b[5 q",
                b"\x1b]2;t\x07",
                b"\xc2\x9b?1h",
                b"\x1b=",
                b"\x1b[!p",
            ]
        )
    ),
    st.integers(0, 60),
)
def test_ordinary_output_says_nothing_that_lasts(pieces: list[bytes], size: int) -> None:
    """What is passed over because it is ordinary has no mode in it, and is cut at a line."""
    output = b"".join(pieces)
    if is_ordinary(output):
        cut = Modes().cut(output, size)

        assert b"" == Modes(output).sequence()
        assert cut == len(output) or output[:cut].endswith(b"\n") or output[cut:].startswith(b"\x1b")


@pytest.mark.parametrize(
    "piece",
    [
        b"\xc2\x9d52;c;QUJD", b"\x1b]52;c;QUJD", b"\x1bP", b"\x1b[", b"\x1b", b"\x1b[1;", b"\xc2\x9b",
        b"\x1b[?25h", b"\x1b[6\x00",
        b"\x1b]2;", b"\xe2", b"\xc2", b"\x1b(", b"\x1b_G", b"\x05\x1b", b"\x1b[;;;;",
    ],
)  # fmt: skip
def test_the_time_grows_with_the_length_alone(piece: bytes) -> None:
    """A hostile file takes no longer by the byte when it is sixteen times as long: nothing is looked at twice."""

    def seconds(output: bytes) -> float:
        began_at = time.process_time()
        repeatable(output)
        Modes(output)
        return time.process_time() - began_at

    short, long = piece * (4096 // len(piece)), piece * (65536 // len(piece))
    fastest = [min(seconds(output) for _ in range(3)) for output in (short, long)]

    assert fastest[1] < 16 * 4 * max(fastest[0], 0.0005)


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


HARMLESS = st.sampled_from(
    [
        b"text", b"\n", b"\r\n", b"\t", b"\x08", b"\x0e", b"\x0f", "schön 🙂\u0301".encode(), b"\x1b[m",
        b"\x1b[1;38:2::1:2:3m", b"\x1b[2J", b"\x1b[?J", b"\x1b[10;20H", b"\x1b[3b", b"\x1b[?25l",
        b"\x1b[?1049h", b"\x1b[4h", b"\x1b[?1000;1006h", b"\x1b[22;0;0t", b"\x1b[23t", b"\x1b[2T", b"\x1b[5 q",
        b"\x1b[!p", b"\x1b[>4;2m", b"\x1b[>1u", b"\x1b[<u", b"\x1b[s", b"\x1b[u", b"\x1b[1;5r", b"\x1b7", b"\x1b8",
        b"\x1b=", b"\x1b>", b"\x1bM", b"\x1bc", b"\x1b(0", b"\x1b)B", b"\x1b#8", b"\x1b]0;a title?\x07",
        b"\x1b]2;another\x1b\\", b"\x1b]8;id=1;http://x/?a=b\x1b\\", b"\x1b]8;;\x1b\\", b"\x1b]4;1;#fff\x07",
        b"\x1b]11;rgb:0/0/0\x1b\\", b"\x1b]104\x07", b"\x1b]110\x1b\\",
    ]
)  # fmt: skip


@given(st.lists(st.one_of(HARMLESS, st.text(st.characters(exclude_categories=["C"])).map(str.encode))))
@settings(max_examples=300)
def test_nothing_harmless_is_left_out_or_changed(pieces: list[bytes]) -> None:
    """In any order, however much of it: what draws or sets modes is shown again byte for byte."""
    output = b"".join(pieces)

    assert output == repeatable(output)


@given(st.lists(st.one_of(PIECES, HARMLESS), max_size=40).map(b"".join))
@settings(max_examples=500)
def test_what_is_shown_again_is_hardly_longer(output: bytes) -> None:
    """What is no character becomes one of three bytes; nothing else grows."""
    assert len(repeatable(output)) <= 3 * len(output) + 2


@given(st.lists(st.one_of(PIECES, HARMLESS), max_size=40).map(b"".join), st.lists(st.integers(0, 40)))
@settings(max_examples=500)
def test_where_output_is_cut_changes_nothing(output: bytes, sizes: list[int]) -> None:
    """A ring that drops its beginning in any steps knows the modes of the whole, and what is left does nothing."""
    modes, rest = Modes(), output
    for size in sizes:
        rest = rest[modes.cut(rest, min(size, len(rest))) :]
        assert [] == effects(modes.sequence() + repeatable(rest))
    modes.feed(rest)

    assert modes.sequence() == Modes(output).sequence()


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


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (b"\x1b=", b"\x1b="),
        (b"\x1b=\x1b>", b"\x1b>"),
        (b"\x1b[>1u\x1b[>5u\x1b[<u", b"\x1b[>1u"),
        (b"\x1b[>1u\x1b[=3;2u", b"\x1b[>3u"),
        (b"\x1b[>1u\x1b[?1049h\x1b[>7u", b"\x1b[>1u\x1b[?1049h\x1b[>7u"),
        (b"\x1b[>1u\x1b[?1049h\x1b[>7u\x1b[?1049l", b"\x1b[>1u\x1b[?1049l"),
        (b"\x1b[>4;2m", b"\x1b[>4;2m"),
        (b"\x1b[5 q\x1b[2 q", b"\x1b[2 q"),
        (b"\x1b]0;one\x07\x1b]2;two\xc2\x9c", b"\x1b]2;two\x1b\\"),
        (b"\x1b]2;x\x1b[?25h", b"\x1b[?25h"),
        (b"\x1b]52;\x1b[?25l\x07", b"\x1b[?25l"),
        (b"\x1bPq\x1b\\\x1b[?1h\x1b[?25l\x1b[!p", b""),
    ],
)
def test_what_lasts_is_kept(output: bytes, kept: bytes) -> None:
    """Keypad, kitty's keyboard of each screen, modifyOtherKeys, the cursor's shape, the title."""
    assert kept == Modes(output).sequence()


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
