"""`agentsrv run`: start a job and show it to its end."""

from __future__ import annotations

import json
import os
import stat
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from rich.text import Text

from agentsrv.cli import exits
from agentsrv.cli.exits import Refused, UsageError
from agentsrv.cli.safe import one_line
from agentsrv.cli.start import Cli
from agentsrv.cli.watch import Manners, Watch
from agentsrv.client import AgentsrvError, AsyncJob, JobInfo, JobResult, NotFoundError


async def main(cli: Cli) -> int:
    arguments, output = cli.arguments, cli.output
    job = await start(cli, read_prompt(arguments))
    if arguments.detach:
        return detached(cli, job)
    if output.is_terminal and output.format == "text":
        output.print(await head(cli, job))
    watch = Watch(cli, manners(cli), job)
    code = await watch.run(job.events(on_break=watch.told_of_break, times=True))
    if code is not None:
        if output.format == "json":
            output.object({**msgspec.to_builtins(await as_it_is(job)), "text": None})
        return code
    return finished(cli, await job.result(), watch)


async def as_it_is(job: AsyncJob) -> JobInfo:
    """What can be told of it by now."""
    with suppress(AgentsrvError):
        await job.refresh()
    return job.info


def manners(cli: Cli) -> Manners:
    arguments = cli.arguments
    is_asked_here = cli.output.is_interactive and not arguments.no_input
    answers = "deny" if arguments.deny else "ask" if is_asked_here else "leave"
    return Manners(stops=True, keeps_on_term=arguments.keep, answers=answers, timeout_s=arguments.timeout)


def read_prompt(arguments: Namespace) -> str:
    """The prompt, and behind it what is piped in. What is no UTF-8 is shown as such in both."""
    given = arguments.prompt if arguments.prompt not in (None, "-") else ""
    given = given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    piped = piped_text()
    prompt = "\n\n".join(each for each in (given, piped.rstrip("\n")) if each and each.strip())
    if not prompt:
        raise UsageError('there is no prompt: agentsrv run "Tidy up."')
    return prompt


def piped_text() -> str:
    """What a file or another program gives. Whatever else stdin is, nobody may ever write to it."""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    return sys.stdin.buffer.read().decode("utf-8", "replace")


async def start(cli: Cli, prompt: str) -> AsyncJob:
    arguments = cli.arguments
    session = arguments.session
    if arguments.resume:
        session = await last_session(cli)
    cwd = await working_directory(cli, session)
    if arguments.trust:
        session = await trusting(cli, session, cwd)
    return await cli.client.run(
        prompt,
        session=session,
        agent=arguments.agent,
        cwd=cwd,
        permission_mode="ask" if arguments.ask else arguments.mode,
        model=arguments.model,
        effort=arguments.effort,
        images=[image(each) for each in arguments.image],
        use_worktree=arguments.worktree or None,
        if_busy=arguments.if_busy,
        output_schema=schema(arguments.schema),
        max_budget_usd=arguments.max_budget,
    )


async def working_directory(cli: Cli, session: str | None) -> str | None:
    """What is said; with a server on this machine a new session works where we are. An old one keeps its own."""
    given: str | None = cli.arguments.cwd
    if not cli.server.is_local:
        return given
    if given is None and session is not None and await exists(cli, session):
        return None
    try:
        return str(Path(given or "").absolute())
    except FileNotFoundError:
        raise Refused(
            "the directory that we are in is gone: go to another one, or give --cwd whole"
        ) from None


async def trusting(cli: Cli, session: str | None, cwd: str | None) -> str:
    """The session, or a new one, in which the settings of its repository count."""
    sessions = cli.client.sessions
    if session is not None and await exists(cli, session):
        return (await sessions.update(session, trust_repository=True)).id
    return (await sessions.create(session, agent=cli.arguments.agent, cwd=cwd, trust_repository=True)).id


async def exists(cli: Cli, session_id: str) -> bool:
    try:
        await cli.client.sessions.get(session_id)
    except NotFoundError:
        return False
    return True


async def last_session(cli: Cli) -> str:
    async for job in cli.client.jobs.list(page_size=1):
        return job.session_id
    raise Refused("there is no session to go on with")


def schema(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise unreadable("--schema", path, exc) from None


def image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise unreadable("--image", path, exc) from None


def unreadable(option: str, path: Path, exc: Exception) -> UsageError:
    return UsageError(f"{option} {path}: {exc.strerror if isinstance(exc, OSError) else exc}")


def detached(cli: Cli, job: AsyncJob) -> int:
    if cli.output.format == "text":
        cli.output.write(f"{job.session_id} {job.id}\n")
    else:
        cli.output.object({"sessionId": job.session_id, "taskId": job.id, "status": job.status})
    return exits.OK


async def head(cli: Cli, job: AsyncJob) -> Text:
    """Session, agent, model, the branch of its worktree, and where the console shows it: whole, to be copied."""
    session = await cli.client.sessions.get(job.session_id)
    worktrees = await cli.client.git.worktrees() if session.worktree else ()
    branches = [each.branch or "" for each in worktrees if each.path == session.worktree]
    facts = [session.id, session.agent, session.model or "", *branches]
    line = Text("  ".join(one_line(each) for each in facts if each), "dim")
    link = "" if cli.server.socket else f"{cli.server.url}/console/#/s/{quote(session.id)}"
    has_room = line.cell_len + len(link) + 2 <= cli.output.console.width
    return line.append(f"{'  ' if has_room else chr(10)}{link}" if link else "")


def finished(cli: Cli, result: JobResult, watch: Watch) -> int:
    """Tell the end as it was asked for; the exit code that it has."""
    output, job = cli.output, result.job
    code = watch.ending or exits.BY_STATUS.get(job.status, exits.FAILED)
    if output.format == "json":
        output.object({**msgspec.to_builtins(job), "text": result.text})
    elif output.format == "text" and not output.is_terminal and result.text:
        output.write(result.text if result.text.endswith("\n") else f"{result.text}\n")
    watch.viewer.end(job)
    if job.status != "completed" and not (output.is_terminal and output.format == "text"):
        output.error(
            job.error or f"the job is {job.status}", {"code": job.code or job.status, "status": job.status}
        )
    return code
