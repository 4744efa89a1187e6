"""docs/cli.md says what may be typed, all of it and nothing else."""

from __future__ import annotations

import re

from agentsrv.cli import exits
from agentsrv.cli.completion import options_of_commands
from tests.kit import ROOT

PAGE = (ROOT / "docs/cli.md").read_text()
COMMON = {"--help", "--plain", "--json", "--jsonl", "--url", "--key-file", "--key", "--session", "--continue"}
COMMON |= {"--quiet", "--detach", "--all", "--follow", "--message", "--cwd"}
"""Of all commands, or shown in their short form; `--key` is not for anybody."""


def test_every_command_and_option_is_explained() -> None:
    """A new one without its line here fails."""
    commands = {name: set(words) for name, words in options_of_commands("cli.").items()}

    assert [name for name in commands if not re.search(rf"`{name}\b", PAGE)] == []
    words = set().union(*commands.values()) - COMMON
    assert sorted(word for word in words if word not in PAGE and word != "--detach-key") == []


def test_no_option_is_explained_that_is_not_there() -> None:
    """What stands in the tables can be typed."""
    there = set().union(*options_of_commands().values()) | {"--env-file"}
    shown = set(re.findall(r"`(?:[a-z]+ )?(--[a-z-]+)", PAGE))

    assert shown - there == set()


def test_every_exit_code_is_explained() -> None:
    """Each has its line."""
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    explained = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(",")
    }

    assert codes == explained


def test_the_first_thing_that_is_shown_is_the_command_line() -> None:
    """README: `agentsrv run`, and then curl."""
    shown = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))

    assert 0 < shown.index("agentsrv run") < shown.index("curl ")
