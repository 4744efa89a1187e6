"""Settings: what is read, what is refused, and that the refusal helps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentsrv import dotenv
from agentsrv.config import Config
from agentsrv.errors import StartupError
from agentsrv.model import PermissionMode

KEY = "a-key-that-is-long-enough"


def read(**variables: str) -> Config:
    return Config.from_env({"API_KEY": KEY, "HOME": "/home/ada", **variables})


def refusal(**variables: str) -> str:
    with pytest.raises(StartupError) as caught:
        Config.from_env(variables)
    return str(caught.value)


def test_all_wrong_settings_are_named_at_once() -> None:
    """Who starts the server again after mending one setting does not meet the next one."""
    message = refusal(API_KEY=KEY, PORT="x", PERMISSION_TIMEOUT="-1", DEFAULT_PERMISSION_MODE="yolo")

    assert message.count(";") == 2
    assert all(name in message for name in ("PORT", "PERMISSION_TIMEOUT", "DEFAULT_PERMISSION_MODE"))


def test_a_key_is_all_that_must_be_set() -> None:
    """With nothing but API_KEY the server listens on loopback and keeps its data below the home directory."""
    config = read()

    assert (config.host, config.port) == ("127.0.0.1", 3000)
    assert config.workspace_base == Path("/home/ada")
    assert config.state_dir == Path("/home/ada/.local/share/agentsrv")
    assert config.database_path == Path("/home/ada/.local/share/agentsrv/agentsrv.db")
    assert config.default_permission_mode is PermissionMode.BYPASS


def test_data_goes_where_the_platform_says() -> None:
    """XDG_DATA_HOME moves the state, and STATE_DIR moves the database with it."""
    assert read(XDG_DATA_HOME="/data").database_path == Path("/data/agentsrv/agentsrv.db")
    assert read(STATE_DIR="/srv/state").database_path == Path("/srv/state/agentsrv.db")


def test_a_blank_setting_is_one_that_is_not_set() -> None:
    """`PORT=` in an env file or a compose file means the default."""
    assert read(PORT=" ").port == 3000


def test_several_keys_are_separated_by_commas() -> None:
    """Keys can be rotated: the old one and the new one are valid together."""
    assert read(API_KEY="first-key-0123456, second-key-0123456,").api_keys == (
        "first-key-0123456",
        "second-key-0123456",
    )


@pytest.mark.parametrize("key", ["", "  ", ",", "your-api-key-here", f"{KEY},your-api-key-here"])
def test_no_start_without_a_real_key(key: str) -> None:
    """A missing key and the placeholder of env.example are refused with what to do."""
    assert "`agentsrv token" in refusal(API_KEY=key)


def test_a_short_key_is_only_warned_about() -> None:
    """An existing deployment with a short key still starts."""
    assert "shorter than 16" in read(API_KEY="short").warnings()[0]
    assert read(WORKSPACE_BASE_PATH="/work").warnings() == []


def test_who_can_reach_the_server_by_a_name_is_warned_about() -> None:
    """Off loopback, ALLOWED_HOSTS closes DNS rebinding."""
    settings = {"WORKSPACE_BASE_PATH": "/work", "HOST": "0.0.0.0"}

    assert "ALLOWED_HOSTS" in read(**settings).warnings()[0]
    assert read(**settings, ALLOWED_HOSTS="agents.example.com").warnings() == []


def test_state_in_reach_of_sessions_is_warned_about() -> None:
    """Agents would work next to the server's database."""
    settings = {"WORKSPACE_BASE_PATH": "/srv/agents", "STATE_DIR": "/srv/agents/state"}

    assert "STATE_DIR lies in WORKSPACE_BASE_PATH" in read(**settings).warnings()[0]
    assert "STATE_DIR lies in WORKSPACE_BASE_PATH" in read(**settings).warnings(at_start=True)[0]


def test_the_default_place_of_the_state_is_no_news_at_each_start() -> None:
    """It is a hidden directory, which the doctor speaks of."""
    assert len(read().warnings()) == 1
    assert read().warnings(at_start=True) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "3000.0"),
        ("PORT", "-1"),
        ("LOG_FORMAT", "xml"),
        ("TURN_TIMEOUT", "nan"),
        ("TURN_TIMEOUT", "-1"),
        ("SHUTDOWN_GRACE", "soon"),
        ("SHUTDOWN_GRACE", "1e18"),
        ("MAX_CONCURRENT_TURNS", "0"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "app.example.com"),
        ("ALLOWED_ORIGINS", "https://app.example.com/path"),
        ("ALLOWED_HOSTS", "https://agents.example.com"),
        ("ALLOWED_HOSTS", "a.example.com, *"),
        ("ALLOWED_HOSTS", ".example.com"),
        ("REDIS_URL", "http://127.0.0.1:6379"),
        ("REDIS_URL", "redis+sentinel://h:26379"),
        ("SERVER_NAME", "-a"),
        ("SERVER_NAME", "a/b"),
        ("SERVER_NAME", "a" * 129),
        ("SERVER_URL", "10.0.0.1:3000"),
        ("SERVER_URL", "http://:3000"),
        ("SERVER_URL", "http://a:99999"),
        ("SERVER_URL", "http://[::1"),
        ("SERVER_URL", "http://a?b"),
        ("SERVER_URL", "http://me:hunter2@a"),
        ("DEFAULT_PERMISSION_MODE", "root"),
        ("AGENT_ENV", "A=B"),
        ("AGENT_ENV", "HOME,API_KEY"),
        ("API_KEY", "two words of a key"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str) -> None:
    """One line: the variable, and what it must be."""
    message = refusal(**{"API_KEY": KEY, name: value})

    assert message.startswith(f"{name} must")
    assert "\n" not in message


def test_a_refusal_does_not_show_the_secret() -> None:
    """A password in a mistyped URL stays out of the terminal and the journal."""
    assert "hunter2" not in refusal(API_KEY=KEY, REDIS_URL="redsi://:hunter2@cache")


def test_server_of_a_fleet_says_how_it_is_reached() -> None:
    """By SERVER_URL, or by HOST and PORT where these are an address; a name without a Redis is refused."""
    named = {"SERVER_NAME": "A.b-c_" + "d" * 122, "REDIS_URL": "redis+sentinel://u:p@[::1]:1,h/agents/2"}

    assert "http://10.0.0.1:3000" == read(**named, HOST="10.0.0.1", PORT="3000").peer_url
    assert "http://[::2]:3000" == read(**named, HOST="::2", PORT="3000").peer_url
    assert "https://a.example/b" == read(**named, HOST="0.0.0.0", SERVER_URL="https://a.example/b/").peer_url
    for unreachable in ({"HOST": "0.0.0.0"}, {"HOST": "::"}, {"HOST": "unix:/s"}, {"PORT": "0"}):
        assert "SERVER_NAME needs SERVER_URL" in refusal(API_KEY=KEY, **named, **unreachable)
    assert "SERVER_NAME needs REDIS_URL" in refusal(API_KEY=KEY, SERVER_NAME="a")


def test_secrets_are_not_in_the_printed_configuration() -> None:
    """A configuration in a log line or a traceback shows no key, no Redis password and no environment."""
    shown = repr(read(REDIS_URL="redis://:hunter2@cache", ANTHROPIC_API_KEY="sk-ant-1"))

    assert [secret for secret in (KEY, "hunter2", "sk-ant-1") if secret in shown] == []


def test_origins_are_compared_as_browsers_write_them() -> None:
    """Case and a trailing slash do not matter in the setting."""
    assert read(ALLOWED_ORIGINS="HTTPS://App.Example.com/, http://localhost:5173").allowed_origins == {
        "https://app.example.com",
        "http://localhost:5173",
    }


def test_paths_may_start_at_home_and_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of directory does not move the database."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert read(STATE_DIR="~/state").state_dir == tmp_path / "state"
    assert read(DATABASE_PATH="data/x.db").database_path == tmp_path / "data/x.db"


def test_env_file_forms(tmp_path: Path) -> None:
    """Comments, `export`, quotes and `#` inside a value are read as a shell would."""
    file = tmp_path / ".env"
    file.write_text(
        "# a comment\n\nPORT=8080\nexport HOST = 0.0.0.0  # all\n"
        "A='single # kept'\nB=\"double\"\nC=a#b\nD=\nE= # nothing\nF=x=y\r\n"
    )

    assert dotenv.load(file) == {
        "PORT": "8080",
        "HOST": "0.0.0.0",
        "A": "single # kept",
        "B": "double",
        "C": "a#b",
        "D": "",
        "E": "",
        "F": "x=y",
    }


@pytest.mark.parametrize("line", ["just words", "1A=x", "A='open", "A='x' y"])
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    """The message says where, and does not repeat the line: it may hold a secret."""
    file = tmp_path / ".env"
    file.write_text(f"OK=1\n{line}\n")

    with pytest.raises(StartupError, match=r"line 2: [^']*$") as caught:
        dotenv.load(file)

    assert line not in str(caught.value)


def test_an_env_file_may_be_a_pipe_that_somebody_writes_into(tmp_path: Path) -> None:
    """`--env-file <(...)` works; one that lies in a directory and that nobody writes into is not waited for."""
    os.mkfifo(pipe := tmp_path / ".env")
    with pytest.raises(StartupError, match="nobody writes into it"):
        dotenv.load(pipe)

    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "wb") as writer:
        writer.write(b"PORT=2\n")
        writer.close()
        assert dotenv.load(Path(f"/dev/fd/{read_end}")) == {"PORT": "2"}


def test_no_env_file_is_fine(tmp_path: Path) -> None:
    """The file is optional."""
    assert dotenv.load(tmp_path / ".env") == {}


def test_storing_a_variable_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    """The new key replaces the old line, everything else stays, and only the owner may read the file."""
    file = tmp_path / ".env"
    file.write_text("# mine\nPORT=8080\nAPI_KEY=your-api-key-here\nbroken line\n")

    dotenv.store(file, "API_KEY", "new")

    assert file.read_text() == "# mine\nPORT=8080\nbroken line\nAPI_KEY=new\n"
    assert file.stat().st_mode & 0o777 == 0o600
