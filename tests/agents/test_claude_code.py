"""The Claude Code adapter reads what the real CLI wrote (transcripts/claude/), line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.claude.agent import ClaudeCode
from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.contract import Effect
from agentsrv.config import Config
from agentsrv.errors import InvalidInput, StartupError
from agentsrv.jsontext import dump
from agentsrv.model import Outcome, PermissionMode, Session, SessionId, TurnId, TurnOptions, TurnStatus
from agentsrv.threads import Threads

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "claude"
CONVERSATION = "5e551011-0000-4000-8000-000000000000"
PROMPT = TurnId("00000000-0000-4000-8000-000000000001")


def transcript(name: str) -> list[bytes]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_bytes().splitlines()


def prompt_of(lines: list[bytes], number: int) -> TurnId:
    """The uuid of the `number`th prompt of a transcript."""
    uuids = [
        message["command_uuid"]
        for message in map(json.loads, lines)
        if message["type"] == "command_lifecycle"
    ]
    return TurnId(list(dict.fromkeys(uuids))[number])


def play(adapter: ClaudeAdapter, lines: Iterator[bytes], prompt: TurnId | None) -> tuple[Outcome | None, int]:
    """Feed lines until the turn is over; how it ended and how many lines it took."""
    adapter.begin_turn(prompt, TurnOptions())
    outcome = None
    for count, line in enumerate(lines, 1):
        effect = adapter.receive(line)
        if effect is not None and effect.outcome is not None:
            outcome = effect.outcome
        if effect is not None and effect.is_over:
            return outcome, count
    return outcome, -1


def first_turn(name: str) -> tuple[Outcome | None, int]:
    lines = transcript(name)
    return play(ClaudeAdapter(CONVERSATION, {}), iter(lines), prompt_of(lines, 0))


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_no_line_is_lost_or_changed(path: Path) -> None:
    """Every line of every transcript is an event as it is, but for answers to the server's own requests."""
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(None, TurnOptions())
    for line in path.read_bytes().splitlines():
        effect = adapter.receive(line)
        if json.loads(line)["type"] == "control_response":
            assert effect == Effect(event=None)
        else:
            assert effect is None or effect.event == line


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("error_400", "agent_error"),
        ("error_401", "agent_not_authenticated"),
        ("error_429", "agent_rate_limited"),
        ("error_500", "agent_api_error"),
        ("refused", "agent_api_unreachable"),
        ("context_too_long", "context_too_long"),
        ("not_logged_in", "agent_not_authenticated"),
        ("max_turns", "max_turns_reached"),
        ("max_budget", "max_budget_reached"),
        ("interrupt_text", "agent_interrupted"),
        ("interrupt_tool", "agent_interrupted"),
        ("billing", "agent_billing"),
        ("refusal", "model_refused"),
        ("output_limit", "output_limit_reached"),
        ("context_window", "context_too_long"),
        ("hook_blocks_prompt", "prompt_blocked"),
        ("hook_stops_prompt", "stopped_by_hook"),
        ("hook_stops_turn", "stopped_by_hook"),
    ],
)
def test_failures_have_a_message_and_a_stable_code(name: str, code: str) -> None:
    """A turn that fails says why in words, and in a code for programs."""
    outcome, _ = first_turn(name)

    assert outcome is not None
    assert (outcome.status, outcome.error_code) == (TurnStatus.FAILED, code)
    assert outcome.error
    assert "ede_diagnostic" not in outcome.error


def test_success_has_stop_reason_usage_and_cost() -> None:
    """A turn that goes well tells what it used."""
    outcome, lines = first_turn("two_turns")

    assert outcome is not None
    assert (outcome.status, outcome.error, outcome.stop_reason) == (TurnStatus.COMPLETED, None, "end_turn")
    assert outcome.usage is not None
    assert outcome.usage["output_tokens"] > 0
    assert outcome.cost_usd is not None
    assert outcome.cost_usd > 0
    assert json.loads(transcript("two_turns")[lines - 1])["state"] == "idle"


def test_cost_is_of_the_turn_although_the_cli_counts_the_process() -> None:
    """The second turn of a process costs what it costs, also when a restarted server reads it."""
    lines = transcript("two_turns")
    totals = [json.loads(line)["total_cost_usd"] for line in lines if json.loads(line)["type"] == "result"]
    adapter = ClaudeAdapter(CONVERSATION, {})
    first, count = play(adapter, iter(lines), prompt_of(lines, 0))
    restarted = ClaudeAdapter(CONVERSATION, adapter.state())
    second, _ = play(restarted, iter(lines[count:]), prompt_of(lines, 1))

    assert first is not None
    assert second is not None
    assert (first.cost_usd, second.cost_usd) == pytest.approx((totals[0], totals[1] - totals[0]))


def test_structured_output_is_in_the_outcome() -> None:
    """With an output schema the answer comes as data."""
    outcome, _ = first_turn("structured_output")

    assert outcome is not None
    assert isinstance(outcome.structured_output, dict)


def test_last_words_are_in_the_outcome() -> None:
    """What the agent has to say at the end is the job's result, not only an event among many."""
    outcome, _ = first_turn("partial_messages")

    assert outcome is not None
    assert outcome.result == "end"


def test_turn_with_a_subagent_lasts_to_the_idle_behind_its_second_result() -> None:
    """What the agent still does after its first result belongs to the turn, and the first result counts."""
    lines = transcript("subagent_long")
    outcome, count = first_turn("subagent_long")
    totals = [json.loads(line)["total_cost_usd"] for line in lines if json.loads(line)["type"] == "result"]

    assert outcome is not None
    assert outcome.cost_usd == pytest.approx(totals[-1])
    assert count == len(lines)


@pytest.mark.parametrize("name", ["unprompted_turn_meets_prompt", "unprompted_tool_meets_prompt"])
def test_prompt_that_meets_an_unprompted_turn_is_over_at_its_own_end(name: str) -> None:
    """The agent worked by itself when my prompt came: I wait for my answer, not for the other one."""
    lines = transcript(name)
    adapter = ClaudeAdapter(CONVERSATION, {})
    _, first = play(adapter, iter(lines), prompt_of(lines, 0))
    outcome, count = play(adapter, iter(lines[first:]), prompt_of(lines, 1))

    assert outcome is not None
    assert outcome.status == TurnStatus.COMPLETED
    assert first + count == len(lines)


def test_background_command_keeps_the_agent_busy_until_it_ends() -> None:
    """An idle agent whose command still runs must not be ended as idle; when the command ends it wakes up."""
    lines = transcript("background_bash")
    adapter = ClaudeAdapter(CONVERSATION, {})
    _, count = play(adapter, iter(lines), prompt_of(lines, 0))
    was_busy = adapter.has_background_work
    woken = [effect.begins for line in lines[count:] if (effect := adapter.receive(line)) is not None]

    assert was_busy
    assert True in woken
    assert not adapter.has_background_work


def test_cleared_conversation_goes_on_under_its_new_id() -> None:
    """After /clear the agent has a new conversation; the next process must resume that one."""
    adapter = ClaudeAdapter("5e551011-0000-4000-8000-000000000000", {})
    ids = [effect.internal_session_id for line in transcript("slash") if (effect := adapter.receive(line))]

    assert [internal_id[:8] for internal_id in ids if internal_id][-1] == "74f940e2"


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1]",
        b'"text"',
        b"{",
        b'{"a":NaN}',
        b"\x00",
        b'{"type":"x"}{"type":"y"}',
        b"[" * 100_000,
    ],
)
def test_line_that_is_no_object_is_kept_as_raw(line: bytes) -> None:
    """Garbage on stdout is an event, not a crash and not lost."""
    effect = ClaudeAdapter(CONVERSATION, {}).receive(line)

    assert effect is not None
    assert effect.event is not None
    assert json.loads(effect.event) == {"type": "raw", "data": line.decode()}


@pytest.mark.parametrize("line", [b'{"type":"x","t":"\\ud800"}', b'{"type":5}', b'{"no":"type"}'])
def test_odd_but_readable_lines_pass_as_they_are(line: bytes) -> None:
    """Lone surrogates, odd types and unknown kinds are passed on; only blank lines are not events."""
    adapter = ClaudeAdapter(CONVERSATION, {})

    assert adapter.receive(line) is None
    assert adapter.receive(b"  ") == Effect(event=None)


STEERED = [TurnId(f"00000000-0000-4000-8000-0000000000{number}") for number in (90, 91)]


def play_steered(name: str) -> tuple[ClaudeAdapter, list[Effect], int]:
    """The first turn of a transcript, with messages added from its start on."""
    lines = transcript(name)
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(prompt_of(lines, 0), TurnOptions())
    for message_id in STEERED:
        if message_id.encode() in b"".join(lines):
            assert adapter.steer(message_id, b"{}") == b"{}\n"
    effects: list[Effect] = []
    for count, line in enumerate(lines, 1):
        effects += [effect] if (effect := adapter.receive(line)) is not None else []
        if effects and effects[-1].is_over:
            return adapter, effects, count
    raise AssertionError("the turn is never over")


@pytest.mark.parametrize("name", ["steer_text", "steer_tool", "steer_at_result"])
def test_turn_lasts_until_added_messages_are_answered(name: str) -> None:
    """I add a message while it writes, runs a command, or has just finished: it is answered in the same turn,
    whose cost and usage are those of all its parts.
    """
    _, effects, count = play_steered(name)
    lines = [json.loads(line) for line in transcript(name)[:count]]
    totals = [line["total_cost_usd"] for line in lines if line["type"] == "result"]
    outcome = effects[-1].outcome

    assert outcome is not None
    assert outcome.status == TurnStatus.COMPLETED
    assert outcome.cost_usd == pytest.approx(totals[-1])
    assert outcome.usage is not None
    assert outcome.usage["output_tokens"] == 10
    assert sum(line["type"] == "assistant" for line in lines) == 2


def test_interrupt_takes_back_what_was_not_read() -> None:
    """A message that was added and not read would be a turn of its own, right after I stopped the agent."""
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(STEERED[0], TurnOptions())
    adapter.steer(STEERED[1], b"{}")
    requests = [json.loads(line)["request"] for line in adapter.interrupt(STEERED[0]).splitlines()]
    _, effects, _ = play_steered("steer_interrupt")

    assert requests == [
        {"subtype": "cancel_async_message", "message_uuid": STEERED[1]},
        {"subtype": "interrupt"},
    ]
    assert effects[-1].outcome is not None
    assert effects[-1].outcome.error_code == "agent_interrupted"


def test_unexpected_question_of_the_cli_is_answered() -> None:
    """A control request that nobody expects gets an error at once, so that the agent never waits for ever."""
    line = b'{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool"}}'
    effect = ClaudeAdapter(CONVERSATION, {}).receive(line)

    assert effect is not None
    assert effect.reply is not None
    assert json.loads(effect.reply)["response"]["request_id"] == "r1"


@pytest.mark.parametrize(
    ("retry", "code"),
    [
        ({"attempt": 2, "error_status": 401}, "agent_not_authenticated"),
        ({"attempt": 6, "error_status": None}, "agent_api_unreachable"),
        ({"attempt": 1, "error_status": 401}, None),
        ({"attempt": 9, "error_status": 429}, None),
        ({"attempt": 9, "error_status": 529}, None),
    ],
)
def test_retries_that_cannot_help_are_cut_short(retry: dict[str, Any], code: str | None) -> None:
    """A wrong key fails in a second instead of minutes; a busy API is waited for."""
    line = json.dumps({"type": "system", "subtype": "api_retry", "error": "x", **retry}).encode()
    effect = ClaudeAdapter(CONVERSATION, {"has_key": True}).receive(line)

    given_up = effect.gave_up if effect else None
    assert (given_up.error_code if given_up else None) == code


def make_agent(tmp_path: Path, **variables: str) -> ClaudeCode:
    environment = {
        "PATH": "/bin",
        "HOME": str(tmp_path),
        "STATE_DIR": str(tmp_path / "state"),
        "API_KEY": "s",
        "CLAUDE_PATH": "/bin/true",
        "ANTHROPIC_API_KEY": "k",
        "MY_VAR": "v",
        "LC_ALL": "C",
    }
    return ClaudeCode(Config.from_env(environment | variables), Threads().programs)


def make_session(cwd: str = "/w/a.b") -> Session:
    return Session(SessionId("s"), None, "claude-code", cwd, None, CONVERSATION, 0, 0)


def test_texts_of_users_are_not_in_the_arguments(tmp_path: Path) -> None:
    """`ps` shows no system prompt and no secret of an MCP server: they travel by file."""
    options = TurnOptions(
        system_prompt="SECRET1", mcp_servers={"m": {"command": "c", "env": {"T": "SECRET2"}}}
    )
    launch = make_agent(tmp_path).launch(make_session(), options, resume=False, directory=tmp_path)

    assert "SECRET" not in " ".join(launch.argv)
    assert launch.files["system-prompt.txt"] == b"SECRET1"
    assert json.loads(launch.files["mcp.json"])["mcpServers"]["m"]["env"] == {"T": "SECRET2"}


def test_conversation_is_resumed_or_begun(tmp_path: Path) -> None:
    """The CLI refuses to begin a conversation that exists and to resume one that does not."""
    agent = make_agent(tmp_path)
    argv = [
        agent.launch(make_session(), TurnOptions(), resume=resume, directory=tmp_path).argv
        for resume in (False, True)
    ]

    assert f"--session-id={CONVERSATION}" in argv[0]
    assert f"--resume={CONVERSATION}" in argv[1]


@pytest.mark.parametrize("directory", ["-w-a-b", "somewhere-else"])
def test_transcript_is_found_wherever_it_is_kept(tmp_path: Path, directory: str) -> None:
    """The transcript decides between resume and a new conversation; its folder's name is the CLI's affair."""
    agent = make_agent(tmp_path)
    before = agent.transcript_of(make_session())
    path = tmp_path / ".claude" / "projects" / directory / f"{CONVERSATION}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"type": "user"}\n')

    assert before is None
    assert agent.transcript_of(make_session()) == path


def test_agent_gets_an_allow_list_of_variables(tmp_path: Path) -> None:
    """The agent sees its credentials and what I allowed by name; never the server's key or the rest."""
    environment = make_agent(tmp_path).environment()
    allowed = make_agent(tmp_path, AGENT_ENV="MY_VAR").environment()

    assert environment["ANTHROPIC_API_KEY"] == "k"
    assert environment["LC_ALL"] == "C"
    assert not {"API_KEY", "MY_VAR"} & environment.keys()
    assert allowed["MY_VAR"] == "v"


def test_stored_login_is_used_when_asked_for(tmp_path: Path) -> None:
    """USE_CLAUDE_CREDENTIALS: the CLI would prefer an API key over the login, so it gets none."""
    assert "ANTHROPIC_API_KEY" not in make_agent(tmp_path, USE_CLAUDE_CREDENTIALS="true").environment()


@pytest.mark.parametrize(
    ("mode", "word"),
    [
        (PermissionMode.BYPASS, "bypassPermissions"),
        (PermissionMode.ACCEPT_EDITS, "acceptEdits"),
        (PermissionMode.ASK, "default"),
        (PermissionMode.PLAN, "plan"),
    ],
)
def test_mode_is_an_argument(tmp_path: Path, mode: PermissionMode, word: str) -> None:
    """The CLI starts in its mode, and asks us in all but one of them."""
    options = TurnOptions(permission_mode=mode)
    argv = make_agent(tmp_path).launch(make_session(), options, resume=False, directory=tmp_path).argv

    assert f"--permission-mode={word}" in argv
    assert ("--permission-prompt-tool=stdio" in argv) == (mode is not PermissionMode.BYPASS)


def test_each_prompt_begins_in_its_mode() -> None:
    """The agent may have left plan mode, or entered it, in the turn before."""
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(STEERED[0], TurnOptions(permission_mode=PermissionMode.PLAN))
    request, prompt = adapter.prompt(b"{}").splitlines()

    assert json.loads(request)["request"] == {"subtype": "set_permission_mode", "mode": "plan"}
    assert prompt == b"{}"


def test_only_options_that_fit_share_a_process(tmp_path: Path) -> None:
    """Another model needs another process; a budget is for one turn, so its process takes no other."""
    agent = make_agent(tmp_path)
    keys = [agent.process_key(TurnOptions(model=model)) for model in ("opus", "opus", "haiku")]

    assert keys[0] == keys[1] != keys[2]
    assert len({agent.process_key(TurnOptions(permission_mode=mode)) for mode in PermissionMode}) == 4
    assert agent.process_key(TurnOptions(max_budget_usd=1.0)) is None


async def test_mcp_server_with_a_url_alone_is_not_left_out(tmp_path: Path) -> None:
    """The CLI takes a server without a type for a command; ours is the same for every agent."""
    agent, options = make_agent(tmp_path), TurnOptions(mcp_servers={"m": {"url": "http://m"}})
    await agent.check(options)
    files = agent.launch(make_session(), options, resume=False, directory=tmp_path).files

    assert json.loads(files["mcp.json"]) == {"mcpServers": {"m": {"type": "http", "url": "http://m"}}}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (TurnOptions(effort="extreme"), "effort"),
        (TurnOptions(output_schema={"x": "y" * 70_000}), "output_schema"),
        (TurnOptions(mcp_servers={"m": {}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"type": "sdk", "name": "m"}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"type": "stdio", "url": "http://m"}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"command": ""}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"command": 5}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"command": "m", "args": "x"}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"command": "m", "env": {"A": 1}}}), "mcp_servers"),
    ],
)
async def test_option_that_it_does_not_have_is_refused_by_name(
    tmp_path: Path, options: TurnOptions, field: str
) -> None:
    """Nothing is ignored silently."""
    with pytest.raises(InvalidInput) as caught:
        await make_agent(tmp_path).check(options)

    assert (caught.value.code, caught.value.problems[0].path) == ("unsupported_option", field)


def test_user_event_is_what_the_cli_reads(tmp_path: Path) -> None:
    """The first event of a turn is the very line that goes to the agent, the prompt byte by byte."""
    session, turn_id = make_session(), TurnId("00000000-0000-4000-8000-000000000001")
    event = make_agent(tmp_path).user_event(session, turn_id, "--help\n\u2028\x00\"'")
    adapter = ClaudeAdapter(CONVERSATION, {})

    assert adapter.prompt(event) == event + b"\n"
    assert json.loads(event)["message"]["content"] == [{"type": "text", "text": "--help\n\u2028\x00\"'"}]
    assert json.loads(event)["uuid"] == turn_id
    assert b"\n" not in event


@pytest.mark.parametrize("state", ["discarded", "refused"])
def test_message_that_is_never_read_is_not_waited_for(state: str) -> None:
    """The CLI tells that it has thrown a message away: the turn ends all the same, and the message is known as lost."""
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(PROMPT, TurnOptions())
    adapter.steer("m-1", b"{}")
    lines: list[dict[str, Any]] = [
        {"type": "result", "subtype": "success", "user_message_uuids": [PROMPT]},
        {"type": "command_lifecycle", "command_uuid": "m-1", "state": state},
        {"type": "system", "subtype": "session_state_changed", "state": "idle"},
    ]
    effects = [adapter.receive(dump(line)) for line in lines]

    assert [effect and [*effect.lost_steers] for effect in effects] == [[], ["m-1"], []]
    assert [effect and effect.is_over for effect in effects] == [False, False, True]


@pytest.mark.parametrize("state", ["discarded", "refused"])
def test_prompt_that_is_never_read_fails(state: str) -> None:
    """A prompt that the CLI has thrown away is a job that failed, not one that hangs or is done."""
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(PROMPT, TurnOptions())
    adapter.receive(dump({"type": "command_lifecycle", "command_uuid": PROMPT, "state": state}))
    effect = adapter.receive(dump({"type": "system", "subtype": "session_state_changed", "state": "idle"}))

    assert effect is not None
    assert (effect.is_over, effect.outcome and effect.outcome.status) == (True, TurnStatus.FAILED)


def test_a_wrong_setting_is_refused_by_name(tmp_path: Path) -> None:
    """As those of the server are: one line, the variable, and what it must be."""
    with pytest.raises(StartupError, match=r"^USE_CLAUDE_CREDENTIALS must be true or false$"):
        make_agent(tmp_path, USE_CLAUDE_CREDENTIALS="maybe")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("refusal", "refusal"), ("output_limit", "max_tokens"), ("context_window", "max_tokens")],
)
def test_why_the_model_stopped_is_told(name: str, reason: str) -> None:
    """On the job, and in ACP's words."""
    outcome, _ = first_turn(name)
    reader = ClaudeUpdates()
    for line in transcript(name):
        reader.read(json.loads(line))

    assert outcome is not None
    assert (outcome.stop_reason, reader.stop_reason) == (reason, reason)


def test_settings_that_forbid_bypass_end_the_turn_before_it_begins() -> None:
    """The CLI would work in another mode without a word; the job says so, and nothing is asked of the model."""
    lines = transcript("bypass_forbidden")
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(prompt_of(lines, 0), TurnOptions())
    gave_up = [effect.gave_up for line in lines if (effect := adapter.receive(line)) and effect.gave_up]

    assert [outcome.error_code for outcome in gave_up] == ["permission_mode_refused"]
    assert "'default'" in str(gave_up[0].error)


def test_agent_that_moves_to_a_worktree_says_where() -> None:
    """It works there for good; a subagent's worktree is its own affair."""
    lines = transcript("enter_worktree")
    adapter = ClaudeAdapter(CONVERSATION, {})
    moved = [effect.cwd for line in lines if (effect := adapter.receive(line)) and effect.cwd]

    assert moved == ["/w/.claude/worktrees/wt1"]


@pytest.mark.parametrize(("state", "attempt"), [({}, 5), ({"has_key": True}, 2)])
def test_login_that_is_being_renewed_gets_its_time(state: dict[str, Any], attempt: int) -> None:
    """Another process has it in its hands for some seconds; a key that is refused stays refused."""
    adapter = ClaudeAdapter(CONVERSATION, state)
    line = {"type": "system", "subtype": "api_retry", "error": "x", "error_status": 401}
    effects = [adapter.receive(json.dumps(line | {"attempt": n}).encode()) for n in range(1, 8)]

    assert next(n for n, effect in enumerate(effects, 1) if effect and effect.gave_up) == attempt


def test_lost_end_of_a_turn_shows_in_other_lines() -> None:
    """The `idle` line never comes: that the prompt is dealt with and has its result says as much."""
    lines = [line for line in transcript("two_turns") if b'"idle"' not in line]
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(prompt_of(lines, 0), TurnOptions())
    effects = [effect for line in lines if (effect := adapter.receive(line)) is not None]
    signs = [effect for effect in effects if effect.looks_over]

    assert not any(effect.is_over for effect in effects)
    assert signs[0].outcome is not None
    assert signs[0].outcome.status == TurnStatus.COMPLETED


def test_tool_that_runs_is_known_by_name() -> None:
    """The silence of a turn is its tool's, until the result comes."""
    adapter = ClaudeAdapter(CONVERSATION, {})
    tools: list[str | None] = []
    for line in transcript("hook_stops_turn"):
        adapter.receive(line)
        tools.append(adapter.running_tool())

    assert [tool for tool, before in zip(tools, [None, *tools], strict=False) if tool != before] == [
        "Bash",
        None,
    ]


def test_schema_goes_by_stdin(tmp_path: Path) -> None:
    """`ps` shows no schema."""
    options = TurnOptions(output_schema={"type": "object", "title": "SECRET"})
    launch = make_agent(tmp_path).launch(make_session(), options, resume=False, directory=tmp_path)

    assert "SECRET" not in " ".join(launch.argv)
    assert json.loads(launch.opening)["request"]["jsonSchema"] == options.output_schema


@pytest.mark.parametrize(
    ("mode", "sources", "arguments"),
    [
        (PermissionMode.BYPASS, None, []),
        (PermissionMode.ASK, None, ["--setting-sources=user", "--add-dir=."]),
        (PermissionMode.ASK, ("user", "project", "local"), ["--setting-sources=user,project,local"]),
        (PermissionMode.BYPASS, ("user",), ["--setting-sources=user"]),
        (PermissionMode.BYPASS, (), ["--setting-sources="]),
    ],
)
def test_whose_settings_count(
    tmp_path: Path, mode: PermissionMode, sources: tuple[str, ...] | None, arguments: list[str]
) -> None:
    """All in bypass, else the user's, unless the session says otherwise."""
    options = TurnOptions(permission_mode=mode, setting_sources=sources)
    argv = make_agent(tmp_path).launch(make_session(), options, resume=False, directory=tmp_path).argv

    assert [word for word in argv if word.startswith(("--setting-sources", "--add-dir"))] == arguments


def test_default_model_comes_back_and_records_are_kept(tmp_path: Path) -> None:
    """A conversation that is resumed has the default model again; the CLI deletes no record."""
    argv = make_agent(tmp_path).launch(make_session(), TurnOptions(), resume=True, directory=tmp_path).argv
    settings = next(word for word in argv if word.startswith("--settings="))

    assert "--model=default" in argv
    assert json.loads(settings.removeprefix("--settings="))["cleanupPeriodDays"] == 36500
