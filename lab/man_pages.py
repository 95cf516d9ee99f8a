"""Man pages (man(7)) generated from the tree of commands: `nconnect(1)`, and one for each command."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nconnect import __version__
from nconnect.cli.groups import EXAMPLES, arranged
from nconnect.cli.tree import Command

FILES = (
    (
        "/etc/nconnect/nc0.toml",
        "The configuration of the interface nc0; $NCONNECT_CONFIG or -c name another.",
    ),
    ("/run/nconnect/", "Sockets and locks of running daemons; $NCONNECT_RUN_DIR overrides it."),
    ("/var/lib/nconnect/nc0/", "What a daemon keeps; $NCONNECT_STATE_DIR overrides it."),
)
STATUSES = (("0", "Done."), ("1", "Failed."), ("2", "The command line or the configuration is wrong."))


def pages(root: Command) -> dict[str, str]:
    """The pages by file name."""
    found = {"nconnect.1": _page(root, root.commands)}
    for command in root.commands:
        found[f"nconnect-{command.name}.1"] = _page(command, ())
    return found


def _page(command: Command, listed: tuple[Command, ...]) -> str:
    name = command.path.replace(" ", "-")
    lines = [
        f'.TH "{_text(name.upper())}" "1" "" "nconnect {__version__}" "nconnect"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(command.summary[:1].lower() + command.summary[1:])}",
        ".SH SYNOPSIS",
        *_synopsis(command, bool(listed)),
        ".SH DESCRIPTION",
        *_paragraphs(command.help),
    ]
    if listed:
        lines.append(".SH COMMANDS")
        by_name = {each.name: each for each in listed}
        for title, names in arranged(tuple(by_name)).items():
            lines.append(f".SS {_text(title)}")
            for each in names:
                lines += [".TP", f".BR nconnect-{_text(each)} (1)", _text(f"{by_name[each].summary}.")]
    lines += [".SH OPTIONS", *_options(command)]
    for below in () if listed else command.commands:
        lines += [f".SH {_text(below.path.upper())}", *_synopsis(below, False), ".PP"]
        lines += [*_paragraphs(below.help), *_options(below), *_examples(below, ".SS")]
    lines += _examples(command, ".SH")
    lines += [".SH EXIT STATUS", *_list(STATUSES), ".SH FILES", *_list(FILES)]
    if not listed:
        lines += [".SH SEE ALSO", ".BR nconnect (1)"]
    return "\n".join(lines) + "\n"


def _synopsis(command: Command, is_root: bool) -> Iterator[str]:
    yield f".B {_text(command.path)}"
    yield "[\\fIOPTIONS\\fR]" + (" \\fICOMMAND\\fR [\\fIARGS\\fR]" if command.commands or is_root else "")
    for argument in command.arguments:
        yield f"\\fI{_text(argument.metavar)}\\fR"


def _options(command: Command) -> Iterator[str]:
    for argument in command.arguments:
        if argument.help:
            yield from (".TP", f"\\fI{_text(argument.metavar)}\\fR", _text(argument.help))
    for option in command.options:
        names = ", ".join(f"\\fB{_text(name)}\\fR" for name in option.names)
        value = f" \\fI{_text(option.metavar)}\\fR" if option.metavar else ""
        default = f" [default: {option.default}]" if option.default else ""
        yield from (".TP", f"{names}{value}", _text(f"{option.help}{default}"))


def _examples(command: Command, heading: str) -> Iterator[str]:
    examples = EXAMPLES.get(command.path, ())
    if examples:
        yield from (f"{heading} EXAMPLES", ".nf", *map(_text, examples), ".fi")


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _list(pairs: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in pairs:
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(text))


def _text(text: str) -> str:
    """Text that roff prints unchanged: no command at a line's beginning, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("’", "'")
    return re.sub(r"^([.'])", r"\\&\1", escaped)
