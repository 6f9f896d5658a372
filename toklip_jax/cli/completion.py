"""The command `toklip completion SHELL`: prints a script that completes commands and flags."""

from collections.abc import Mapping, Sequence

from toklip_jax.cli.config_names import packaged_configs
from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.parser import Parser

# Words that may follow a flag, by command: {"train": {"--mode": ("train", "eval"), ...}}.
Words = Mapping[str, Mapping[str, Sequence[str]]]

BASH = """\
# To be read by bash: eval "$(toklip completion bash)"
_toklip() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" flag=""
    if [[ $word == = ]]; then flag=$before; word=""
    elif [[ $before == = ]]; then flag="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}} $flag" in
{values}
    esac
    if [[ -z $flag ]]; then
        case "${{COMP_WORDS[1]}}" in
{flags}
        esac
        if [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace; fi
    fi
    if [[ ${{#COMPREPLY[@]}} == 0 && $word != -* ]]; then
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _toklip toklip
"""
ZSH = """\
# To be read by zsh: eval "$(toklip completion zsh)"
autoload -Uz bashcompinit && bashcompinit
"""
FISH = """\
# To be read by fish: toklip completion fish | source
complete -c toklip -n __fish_use_subcommand -f -a '{commands}'
"""


def main(arguments: Sequence[str]) -> int:
    """Prints the script; returns the exit status."""
    return run_plain(arguments, parser(), _print, is_connected=False)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "completion", 'Prints a script that completes: eval "$(toklip completion bash)".'
    )
    found.add_argument("shell", choices=tuple(SCRIPTS), help="the shell that it is for")
    return found


def bash(words: Words) -> str:
    """Returns the script for bash."""
    flags, values = [], []
    for command, of_command in words.items():
        flags.append(f"        {command}) {_reply(of_command)};;")
        values += [
            f'    "{command} {flag[:-1]}") {_reply(known)};;'
            for flag, known in of_command.items()
            if known
        ]
    values.append("    *) ;;")
    return BASH.format(commands=" ".join(words), flags="\n".join(flags), values="\n".join(values))


def zsh(words: Words) -> str:
    """Returns the script for zsh, which reads bash's."""
    return ZSH + bash(words).split("\n", 1)[1]


def fish(words: Words) -> str:
    """Returns the script for fish."""
    lines = [FISH.format(commands=" ".join(words))]
    for command, of_command in words.items():
        start = f"complete -c toklip -n '__fish_seen_subcommand_from {command}'"
        for word, known in of_command.items():
            if not word.startswith("--"):
                lines.append(f"{start} -a {word}")
                continue
            takes = f" -r -a '{' '.join(known)}'" if known else " -r" if word[-1] == "=" else ""
            lines.append(f"{start} -l {word.strip('-=')}{takes}")
    return "\n".join(lines)


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}


def _reply(words):
    return f'COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word"))'


def words_of(commands) -> Words:
    """Returns the flags of commands, a "=" after those that take a value, and known values."""
    return {command.name: _words(command.parser()) for command in commands}


def _print(values) -> None:
    from toklip_jax.cli.commands import COMMANDS  # which has this command too

    print(SCRIPTS[values.shell](words_of(COMMANDS)))


def _words(parser):
    if parser is None:
        return {}
    words: dict[str, tuple[str, ...]] = {}
    for inner in parser.subcommands().values():
        words |= _words(inner)
    for action in parser.arguments():
        words |= dict.fromkeys(action.choices or (), ())
    for action in parser.options():
        for string in action.option_strings:
            words[string + "=" * (action.nargs != 0)] = tuple(action.choices or ())
    if "--config=" in words:
        words["--config="] = tuple(packaged_configs())
    return {word: known for word, known in words.items() if not word.startswith("-h")}
