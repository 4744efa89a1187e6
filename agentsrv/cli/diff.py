"""`agentsrv diff`: what a session has changed, as a patch that `git apply` takes."""

from __future__ import annotations

import msgspec
from rich.text import Text

from agentsrv.cli import exits
from agentsrv.cli.find import find_session
from agentsrv.cli.safe import one_line, visible
from agentsrv.cli.start import Cli
from agentsrv.client import Diff, Session
from agentsrv.client.models import DiffFile

STYLES = {"+": "green", "-": "red", "@": "cyan", "d": "bold"}
BAR = 40
"""The widest row of + and -."""


async def main(cli: Cli) -> int:
    arguments = cli.arguments
    session = await find_session(cli.client, arguments.id)
    base, is_merge_base = arguments.base, False
    if base is None and session.worktree is not None:
        base, is_merge_base = await beginning(cli, session), True
    is_short = arguments.stat or arguments.name_only
    found = await cli.client.git.diff(session.cwd, base=base, merge_base=is_merge_base, summary=is_short)
    show(cli, found)
    return exits.FAILED if arguments.exit_code and found.files else exits.OK


async def beginning(cli: Cli, session: Session) -> str | None:
    """Where the worktree of a session parted from its repository; None when that cannot be told: HEAD, then."""
    worktrees = {each.path: each.root for each in await cli.client.git.worktrees()}
    root = worktrees.get(session.worktree or "")
    heads = {each.path: each.head for each in await cli.client.git.repositories()} if root else {}
    return heads.get(root or "")


def show(cli: Cli, found: Diff) -> None:
    output, arguments = cli.output, cli.arguments
    if output.format == "json":
        output.object(msgspec.to_builtins(found))
    elif output.format == "jsonl":
        output.objects(map(msgspec.to_builtins, found.files))
    elif arguments.name_only:
        output.print(*(visible(file.path).replace("\n", "^J") for file in found.files))
    elif arguments.stat:
        output.print(*stat(found.files))
    elif output.is_terminal and not found.files:
        output.say("nothing has changed")
    elif output.is_terminal:
        page(cli, found.patch())
    else:
        output.write_bytes(found.patch())
    for path in [] if arguments.stat or arguments.name_only else found.incomplete:
        output.say(f"agentsrv: {path} is not in the patch: it is binary, too large, or cannot be read")


def stat(files: list[DiffFile]) -> list[Text]:
    """As `git diff --stat`: a row for each file, and what it comes to."""
    if not files:
        return []
    width = max(len(one_line(file.path)) for file in files)
    most = max(max(file.additions + file.deletions for file in files), BAR)
    rows = []
    for file in files:
        count = "Bin" if file.binary else str(file.additions + file.deletions)
        row = Text(f" {one_line(file.path):{width}} | {count:>5} ")
        row.append("+" * -(-file.additions * BAR // most), "green")
        row.append("-" * -(-file.deletions * BAR // most), "red")
        rows.append(row)
    added, deleted = sum(file.additions for file in files), sum(file.deletions for file in files)
    return [*rows, Text(f" {len(files)} files changed, {added} insertions(+), {deleted} deletions(-)")]


def page(cli: Cli, patch: bytes) -> None:
    """In colours, in a pager where there is one. Nothing of what is in the files reaches the terminal as it is."""
    console = cli.output.console
    with console.capture() as captured:
        for line in visible(patch.decode("utf-8", "replace")).splitlines():
            style = "" if line.startswith(("+++", "---")) else STYLES.get(line[:1], "")
            console.print(Text(line, style), soft_wrap=True)
    cli.output.page(captured.get())
