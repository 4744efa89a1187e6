"""What an agent said last, for people."""

from __future__ import annotations

import pytest

from agentsrv.agents.stderr import MAX_CHARACTERS, error_in, last_words


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("", ""),
        ("\n \n", ""),
        (
            "/lib/libc.so.6: version `GLIBC_2.38' not found\n",
            "/lib/libc.so.6: version `GLIBC_2.38' not found",
        ),
        (
            "\x1b[31mthread 'main' panicked\x1b[0m at x.rs:1\n\x1b]0;title\x07note\r\n",
            "thread 'main' panicked at x.rs:1\nnote",
        ),
        ("\x1b]0;a title without an end\nthread 'main' panicked\n", "thread 'main' panicked"),
        ("loading 1%\rloading 99%\rcannot load\n", "cannot load"),
        (
            "".join(f"line {number}\n" for number in range(20)),
            "\n".join(f"line {number}" for number in range(12, 20)),
        ),
    ],
)
def test_last_lines_are_told_as_they_are(stderr: str, words: str) -> None:
    """Without colours and blank lines; an agent that does not begin them with "error" is heard as well."""
    assert last_words(stderr) == words


def test_error_is_told_with_what_follows_it() -> None:
    """That is why; what came before it is not."""
    assert (
        error_in("starting\nError: cannot start\ncaused by: no memory\n")
        == "Error: cannot start\ncaused by: no memory"
    )
    error = "Error: cannot start\ncaused by: no memory"

    assert error_in(f"starting\n{error}\n") == error
    assert error_in("starting\n") is None


def test_endless_line_is_cut() -> None:
    """Its end says most."""
    assert last_words("x" * 100_000 + "the end")[-7:] == "the end"
    assert len(last_words("x" * 100_000)) == MAX_CHARACTERS + 1
