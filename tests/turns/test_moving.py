"""Sessions whose directories do not stay where they were."""

from __future__ import annotations

from pathlib import Path

from tests.kit import Server, cwd_of, script


def pid_of(server: Server, session: str = "s") -> int:
    events = server.generate("hi", session).rest()
    assert events[-1].json["status"] == "completed"
    pid: int = next(event.json["pid"] for event in events if event.json.get("subtype") == "init")
    return pid


def transcripts(server: Server) -> list[Path]:
    return sorted((server.home / ".claude/projects").glob("*/*.jsonl"))


def test_session_follows_its_renamed_directory(server: Server) -> None:
    """I rename my project: prompts and forks are refused, until I say where it is; its agent remembers all."""
    old, new = server.workspace.parent / "old", server.workspace.parent / "new"
    old.mkdir()
    server.generate("hi", cwd=str(old)).rest()
    (transcript,) = transcripts(server)
    old.rename(new)
    refused, fork = server.generate("hi"), server.ask("POST", "/sessions/s/fork")
    moved = server.ask("PUT", "/sessions/s", {"cwd": str(new)})

    assert (refused.status, fork.status) == (400, 400)
    assert (moved.status, moved.json["cwd"]) == (200, str(new))
    assert cwd_of(pid_of(server)) == str(new)
    assert [path.name for path in transcripts(server)] == [transcript.name] * 2
    assert server.ask("POST", "/sessions/s/fork").status == 201


def test_directory_that_was_made_anew_is_the_agents_again(server: Server) -> None:
    """I remove my clone and clone it again: the agent, which rests in what is gone, does not work on there."""
    place = server.workspace.parent / "clone"
    place.mkdir()
    server.generate("hi", cwd=str(place)).rest()
    place.rmdir()
    place.mkdir()

    assert cwd_of(pid_of(server)) == str(place)


def test_only_an_idle_session_moves(server: Server) -> None:
    """And only to where sessions may work."""
    server.start_job(script("hang"))
    busy = server.ask("PUT", "/sessions/s", {"cwd": str(server.workspace)})
    server.stop()

    assert (busy.status, busy.json["code"]) == (409, "session_busy")
    assert server.ask("PUT", "/sessions/s", {"cwd": "/etc"}).status == 403
