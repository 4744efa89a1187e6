"""`agentsrv completion`: what a shell needs to complete commands, options and ids.

Made from the parser, so it is true. Ids are asked for when they are needed. They come from a server: the shell sees
only those that mean nothing else to it.
"""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace

from agentsrv.cli.arguments import command_line

IDS = "agentsrv ids {of} 2>/dev/null | grep -x '[[:alnum:]_.-]*'"

BASH = """_agentsrv() {{
    local command="${{COMP_WORDS[1]}}" word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" options
    case "$command" in
{options}
    esac
    [ "$COMP_CWORD" -gt 1 ] || options="{commands}"
    case "$command $COMP_CWORD $before $word" in
        *" "*" "*" "-*) ;;
        *" "*" -s "* | *" "*" --session "*) options="$({sessions})" ;;
{choices}
        {with_ids}) options="$({ids})" ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$word"))
}}
complete -o default -F _agentsrv agentsrv
"""

ZSH = """(( $+functions[compdef] )) || {{ autoload -U +X compinit && compinit; }}
autoload -U +X bashcompinit && bashcompinit
{bash}"""


def completion(arguments: Namespace) -> int:
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    sys.stdout.write(scripts[arguments.shell]())
    return 0


def parsers() -> dict[str, argparse.ArgumentParser]:
    """That of each command which people type."""
    parser = command_line()
    actions = parser._subparsers._group_actions if parser._subparsers is not None else []
    commands = next(each for each in actions if isinstance(each, argparse._SubParsersAction))
    return {each.dest: commands.choices[each.dest] for each in commands._choices_actions}


def options_of_commands(home: str = "") -> dict[str, list[str]]:
    """The long options of each command whose module is in `home`."""
    return {
        name: [word for word in command._option_string_actions if word.startswith("--")]
        for name, command in parsers().items()
        if str(command.get_default("home")).startswith(home)
    }


def choices() -> tuple[dict[str, list[str]], dict[tuple[str, int], list[str]]]:
    """What may follow an option, and what may be a word of a command: the first one is 2, as shells count."""
    after: dict[str, list[str]] = {}
    at: dict[tuple[str, int], list[str]] = {}
    for name, command in parsers().items():
        after |= {
            option: list(each.choices)
            for each in command._get_optional_actions()
            if each.choices
            for option in each.option_strings
        }
        at |= {
            (name, place): list(each.choices)
            for place, each in enumerate(command._get_positional_actions(), 2)
            if each.choices
        }
    return after, at


def commands_with_ids() -> list[str]:
    """Those that are followed by the ID of a session, a job or a question."""
    return [
        name
        for name, command in parsers().items()
        if any(each.metavar == "ID" for each in command._get_positional_actions())
    ]


def bash() -> str:
    commands = options_of_commands()
    after, at = choices()
    fixed = {f'*" "*" {option} "*': words for option, words in after.items()}
    fixed |= {f'"{name} {place} "*': words for (name, place), words in at.items()}
    return BASH.format(
        options=cases(commands),
        commands=" ".join(commands),
        choices=cases(fixed),
        with_ids=" | ".join(f'"{name} "*' for name in commands_with_ids()),
        sessions=IDS.format(of="run"),
        ids=IDS.format(of='"$command"'),
    )


def cases(words: dict[str, list[str]]) -> str:
    return "\n".join(f'        {pattern}) options="{" ".join(these)}" ;;' for pattern, these in words.items())


def zsh() -> str:
    return ZSH.format(bash=bash())


def fish() -> str:
    lines = [offer(f"-n __fish_use_subcommand -f -a '{' '.join(parsers())}'")]
    lines += [line for name, words in options_of_commands().items() for line in fish_command(name, words)]
    lines.append(
        offer(f"-n '__fish_seen_subcommand_from run' -s s -l session -x -a \"({IDS.format(of='run')})\"")
    )
    return "\n".join(lines) + "\n"


def fish_command(name: str, options: list[str]) -> list[str]:
    """The words before the one that is typed count the program, so of the command's own the first one follows two."""
    after, at = choices()
    seen = f"__fish_seen_subcommand_from {name}"
    values = {word: f" -x -a '{' '.join(after[word])}'" for word in options if word in after}
    lines = [offer(f"-n '{seen}' -l {word.removeprefix('--')}{values.get(word, '')}") for word in options]
    for place in (place for owner, place in at if owner == name):
        is_there = f"test (count (commandline -opc)) -eq {place}"
        lines.append(offer(f"-n '{seen}; and {is_there}' -f -a '{' '.join(at[name, place])}'"))
        seen += f"; and not {is_there}"
    if name in commands_with_ids():
        lines.append(offer(f"-n '{seen}' -f -a \"({IDS.format(of=name)})\""))
    return lines


def offer(words: str) -> str:
    return f"complete -c agentsrv {words}"
