"""`nconnect completion bash|zsh|fish`: a script generated from the tree of commands.

Each script walks the words before the cursor: it skips values of options and descends into commands. Names of
peers come from `nconnect peers-for-completion`, which prints nothing if the file cannot be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nconnect.cli.options import ConfigOption, UnusedConfigOption, chosen
from nconnect.errors import UsageError
from nconnect.io.errors import as_host_error

if TYPE_CHECKING:
    from nconnect.cli.tree import Command

SHELLS = ("bash", "zsh", "fish")
NAMES = "peers-for-completion"
TAKE_PEERS = ("ping", "wait", "leave", "peer show", "peer set", "peer remove")
_FILES = (
    "-c",
    "--config",
    "--listen-password-file",
    "--password-file",
    "--preshared-key-file",
    "--report",
    "--tls-cert",
    "--tls-key",
)
_PLACES = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/nconnect"),
    "zsh": ("ZDOTDIR", ".", ".zfunc/_nconnect"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/nconnect.fish"),
}


def completion(
    ctx: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    install: Annotated[
        bool, typer.Option("--install", help="Write it to where this user's shell looks for it.")
    ] = False,
    config: UnusedConfigOption = None,
) -> None:
    """Print the completion script of a shell."""
    import difflib

    from nconnect.cli.tree import tree_around

    if shell not in SHELLS:
        near = difflib.get_close_matches(shell, SHELLS, n=1)
        raise UsageError(
            f"{shell!r} is unknown, " + (f"did you mean {near[0]}?" if near else "write bash, zsh or fish")
        )
    text = script(tree_around(ctx), shell)
    if not install:
        print(text, end="")
        return
    target = _place(shell)
    _write(target, text)
    print(f"wrote {target}: new shells use it")
    if shell == "zsh":
        print("zsh looks there if ~/.zshrc has, before compinit: fpath+=(${ZDOTDIR:-~}/.zfunc)")


def peers(ctx: typer.Context, config: ConfigOption = None) -> None:
    """Print the names of the peers, for a completion script: never an error."""
    from nconnect.errors import NconnectError
    from nconnect.io.files import config_file

    try:
        for peer in config_file.load(chosen(ctx, config)).peers:
            print(peer.name)
    except NconnectError:
        return


def script(root: Command, shell: str) -> str:
    """The completion script; `shell` is one of `SHELLS`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](root)


def _place(shell: str) -> Path:
    import os

    variable, default, name = _PLACES[shell]
    return Path(os.environ.get(variable) or Path.home() / default) / name


def _write(target: Path, text: str) -> None:
    from nconnect.io.files.trusted import Folder

    # The folder belongs to the home's owner if sudo keeps $HOME.
    with as_host_error(f"cannot write {target}"), Folder.make(target.parent) as folder:
        folder.replace(target.name, text.encode(), mode=0o644)


def _with_values(root: Command) -> list[str]:
    """The options that take a value, of all commands. None of them may be a flag of another command."""
    return sorted({n for c in root.walk() for o in c.options if o.metavar for n in o.names})


def _paths(root: Command) -> list[str]:
    return [command.path for command in root.walk() if command is not root]


def _takes_peers(command: Command) -> bool:
    return command.path.removeprefix("nconnect ") in TAKE_PEERS


def _options(command: Command) -> list[str]:
    return [name for option in command.options for name in option.names]


def _bash(root: Command) -> str:
    cases = []
    for command in root.walk():
        words = " ".join([c.name for c in command.commands])
        named = " names=1" if _takes_peers(command) else ""
        cases.append(
            f"    '{command.path}') words='{words}' options='{' '.join(_options(command))}'{named} ;;"
        )
    return f"""# bash completion of nconnect; made by `nconnect completion bash`
_nconnect() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local place=nconnect words= options= names= skip= given=0 config= i word
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $skip ]]; then
            [[ $skip == -c || $skip == --config ]] && config=$word
            skip=
            continue
        fi
        case $word in
        {"|".join(_with_values(root))}) skip=$word ;;
        -*) ;;
        *)
            case "$place $word" in
            {"|".join(f"'{path}'" for path in _paths(root))}) place="$place $word" ;;
            *) given=$((given + 1)) ;;
            esac
            ;;
        esac
    done
    case $prev in
    {"|".join(_FILES)}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    {"|".join(n for n in _with_values(root) if n not in _FILES)}) return ;;
    esac
    case $place in
{chr(10).join(cases)}
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ $names && $given == 0 ]]; then
        COMPREPLY=($(compgen -W "$(nconnect {NAMES} ${{config:+-c "$config"}} 2>/dev/null)" -- "$cur"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    fi
}}
complete -o filenames -F _nconnect nconnect
"""


def _zsh(root: Command) -> str:
    cases = []
    for command in root.walk():
        words = " ".join(_quoted(f"{c.name}:{c.summary}") for c in command.commands)
        options = " ".join(
            _quoted(f"{n}:{o.help.replace(':', ' ')}") for o in command.options for n in o.names
        )
        named = " names=1" if _takes_peers(command) else ""
        cases.append(f"    '{command.path}') words_here=({words}) options_here=({options}){named} ;;")
    return f"""#compdef nconnect
# zsh completion of nconnect; made by `nconnect completion zsh`
_nconnect() {{
    local place=nconnect names= skip= config= word previous=${{words[CURRENT-1]}}
    local -a words_here options_here found
    integer given=0 i
    for ((i = 2; i < CURRENT; i++)); do
        word=${{words[i]}}
        if [[ -n $skip ]]; then
            [[ $skip == -c || $skip == --config ]] && config=$word
            skip=
            continue
        fi
        case $word in
        ({"|".join(_with_values(root))}) skip=$word ;;
        (-*) ;;
        (*)
            case "$place $word" in
            ({"|".join(f"'{path}'" for path in _paths(root))}) place="$place $word" ;;
            (*) given=$((given + 1)) ;;
            esac
            ;;
        esac
    done
    case $previous in
    ({"|".join(_FILES)}) _files; return ;;
    ({"|".join(n for n in _with_values(root) if n not in _FILES)}) return 1 ;;
    esac
    case $place in
{chr(10).join("    (" + case.strip() for case in cases)}
    esac
    if [[ ${{words[CURRENT]}} == -* ]]; then
        _describe -o option options_here
    elif [[ -n $names && $given -eq 0 ]]; then
        found=(${{(f)"$(nconnect {NAMES} ${{config:+-c}} ${{config:+"$config"}} 2>/dev/null)"}})
        compadd -a found
    else
        _describe command words_here
    fi
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _nconnect "$@"
else
    compdef _nconnect nconnect
fi
"""


def _fish(root: Command) -> str:
    lines = []
    for command in root.walk():
        here = f"-n \"__nconnect_at '{command.path}'\""
        lines += [
            f"complete -c nconnect {here} -a {c.name} -d {_quoted(c.summary)}" for c in command.commands
        ]
        if _takes_peers(command):
            lines.append(f"complete -c nconnect {here} -a '(__nconnect_peers)'")
        for option in command.options:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            kind = "" if not option.metavar else " -rF" if option.names[0] in _FILES else " -x"
            within = f"-n \"__nconnect_in '{command.path}'\""
            lines.append(f"complete -c nconnect {within} {names}{kind} -d {_quoted(option.help)}")
    return f"""# fish completion of nconnect; made by `nconnect completion fish`
function __nconnect_place
    set -l place nconnect
    set -l skip 0
    set -l words (commandline -opc)
    for word in $words[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case {" ".join(_with_values(root))}
                set skip 1
            case '-*'
                continue
            case '*'
                if contains -- "$place $word" {" ".join(f"'{path}'" for path in _paths(root))}
                    set place "$place $word"
                else
                    set place "$place +"
                end
        end
    end
    echo $place
end
function __nconnect_at
    test (__nconnect_place) = $argv[1]
end
function __nconnect_in
    test (string replace -ra ' \\\\+' '' -- (__nconnect_place)) = $argv[1]
end
function __nconnect_peers
    set -l words (commandline -opc)
    for option in -c --config
        if set -l at (contains -i -- $option $words)
            nconnect {NAMES} -c $words[(math $at + 1)] 2>/dev/null
            return
        end
    end
    nconnect {NAMES} 2>/dev/null
end
complete -c nconnect -f
{chr(10).join(lines)}
"""


def _quoted(text: str) -> str:
    """In single quotes, for all three shells. Our texts contain no single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "’") + "'"
