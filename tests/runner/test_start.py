"""What is said of an agent that cannot be started."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agentsrv.runner.child.start import explain

MISSING = "/nowhere/claude"


@pytest.mark.parametrize(
    ("about", "code", "program", "said", "message"),
    [
        (
            "cwd",
            errno.ENOENT,
            MISSING,
            "cwd",
            "cannot enter the working directory /gone: No such file or directory",
        ),
        ("cwd", errno.EACCES, MISSING, "cwd", "cannot enter the working directory /gone: Permission denied"),
        ("program", errno.ENOENT, MISSING, "program", f"cannot run {MISSING}: No such file or directory"),
        ("program", errno.EACCES, MISSING, "program", f"cannot run {MISSING}: Permission denied"),
        ("program", errno.E2BIG, MISSING, "program", f"cannot run {MISSING}: Argument list too long"),
        ("program", errno.ENOEXEC, MISSING, "program", f"cannot run {MISSING}: Exec format error"),
        (
            "user",
            errno.EPERM,
            MISSING,
            "runner",
            "cannot become the user of AGENT_USER: Operation not permitted",
        ),
        (
            "runner",
            errno.EMFILE,
            MISSING,
            "runner",
            "cannot prepare the agent's process: Too many open files",
        ),
    ],
)
def test_the_reason_names_what_is_wrong(about: str, code: int, program: str, said: str, message: str) -> None:
    """The directory, the program, or the server's own affair."""
    failure = explain(about, code, {"argv": [program], "cwd": "/gone"})

    assert (failure.about, failure.message, str(failure)) == (said, message, message)


def test_a_program_that_is_there_lacks_its_interpreter(tmp_path: Path) -> None:
    """The kernel says only that something does not exist."""
    script = tmp_path / "claude"
    script.write_text("#!/nowhere/node\n")
    failure = explain("program", errno.ENOENT, {"argv": [str(script)], "cwd": "/"})

    assert failure.message == f"cannot run {script}: the interpreter it names does not exist"
