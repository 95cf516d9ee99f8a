"""The API reference of `nconnect.nkn`, written from its docstrings and signatures."""

from __future__ import annotations

import argparse
import ast
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from types import FunctionType

import nconnect.nkn
from lab import CHECKOUT
from nconnect import errors
from nconnect.model import PUBLIC_SEED_RPC
from nconnect.nkn.exchange import MessageDrop
from nconnect.sdk.base_client import BaseClient, Options

PAGE = Path(CHECKOUT) / "docs" / "reference" / "nkn.md"

MAX_SIGNATURE = 60  # characters of parameters on one line
_MADE_BY_USERS = ("Client", "MultiClient", "NknChain")
_CLASSES = (
    "Client", "MultiClient", "Message", "Reply", "Stream", "StreamServer", "LinkStatus", "NknChain",
    "Subscription", "Registrant",
)  # fmt: skip
_ERRORS = (
    errors.NetworkError, errors.NotConnected, errors.NoReply, errors.StreamError, errors.TooBig,
    errors.StreamClosed, errors.ClientClosed, errors.ConfigError, errors.LocalProtocolError,
    errors.RemoteProtocolError,
)  # fmt: skip
# The methods that `async with`, `async for` and `for` call.
_SPECIAL = {"__init__": "", "__aenter__": "async with", "__aiter__": "async for"}


def page() -> str:
    """The whole page, Markdown."""
    parts = [
        "# Reference: nconnect.nkn\n\nWritten by `scripts/api-docs` from the docstrings: change those."
        " How to use it is told in [NKN from Python](../nkn.md).\n"
    ]
    for name in _CLASSES:
        parts += _class(getattr(nconnect.nkn, name))
    parts += _options()
    parts.append("## Errors\n\nAll in `nconnect.errors`.\n")
    for error in _ERRORS:
        base = error.__mro__[1].__name__
        parts.append(f"- `{error.__name__}` ({base}): {_first_line(error)}")
    parts.append("\n## Drops\n\nThe names in `Client.drops`, and why what arrived was not delivered.\n")
    parts += _reasons(MessageDrop)
    parts.append("- `bad_frame`: what a node sent is no frame of NKN's.")
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/api-docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is current")
    if parser.parse_args().check:
        if PAGE.is_file() and PAGE.read_text() == page():
            return 0
        print("docs/reference/nkn.md is not current: run scripts/api-docs", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    return 0


def _class(kind: type) -> Iterator[str]:
    yield f"## {kind.__name__}\n"
    yield f"{inspect.getdoc(kind)}\n"
    members = dict(_members(kind))
    if "__init__" in members and kind.__name__ in _MADE_BY_USERS:
        made = members["__init__"]
        yield f"```python\n{kind.__name__}{_signature(made)}\n```\n\n{inspect.getdoc(made)}\n"
    for name, text, annotation in _attributes(kind):
        yield f"### `{name}: {annotation}`\n\n{text}\n"
    for name, member in members.items():
        if isinstance(member, property) and member.fget is not None:
            yield _entry(f"{name}: {member.fget.__annotations__['return']}", member)
    for name, member in members.items():
        if isinstance(member, FunctionType) and name != "__init__":
            yield _entry(_SPECIAL[name], member) if name in _SPECIAL else _function(name, member)
    if kind is nconnect.nkn.MultiClient:
        yield "Everything else is as in `Client`.\n"


def _options() -> Iterator[str]:
    """What both clients take by keyword, with the defaults of their base."""
    yield f"## Options\n\n{inspect.getdoc(Options)}\n"
    parameters = inspect.signature(BaseClient.__init__).parameters
    for name, text, _ in _attributes(Options):
        yield f"### `{_parameter(name, parameters[name])}`\n\n{text}\n"


def _members(kind: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties in the order of the source; for `Client` also those of its base."""
    places = kind.__mro__[:-1] if kind is nconnect.nkn.Client else (kind,)
    for place in reversed(places):
        for name, member in vars(place).items():
            if (name in _SPECIAL or not name.startswith("_")) and isinstance(member, FunctionType | property):
                yield name, member


def _attributes(kind: type) -> Iterator[tuple[str, str, str]]:
    """(name, text, annotation) of annotated attributes; the text is the string that follows one."""
    tree = ast.parse(dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for line, after in pairwise(tree.body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
                raise SystemExit(f"{kind.__name__}.{line.target.id} has no text behind it")
            yield line.target.id, inspect.cleandoc(str(after.value.value)), ast.unparse(line.annotation)


def _function(name: str, member: object) -> str:
    """The heading is the name only, so that the table of contents stays readable."""
    word = "async def" if inspect.iscoroutinefunction(member) else "def"
    return _entry(name, member, f"```python\n{word} {name}{_signature(member)}\n```\n\n")


def _entry(head: str, member: object, signature: str = "") -> str:
    text = inspect.getdoc(member)
    if not text:
        raise SystemExit(f"{head} has no docstring")
    return f"### `{head}`\n\n{signature}{text}\n"


def _signature(function: object) -> str:
    """The signature with annotations as written and readable defaults, on several lines if it is long."""
    assert isinstance(function, FunctionType)
    signature = inspect.signature(function)
    shown = []
    for name, parameter in list(signature.parameters.items())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(_parameter(name, parameter))
    result = "" if function.__name__ == "__init__" else f" -> {signature.return_annotation}"
    if sum(map(len, shown)) < MAX_SIGNATURE:
        return f"({', '.join(shown)}){result}"
    return "(\n" + "".join(f"    {parameter},\n" for parameter in shown) + f"){result}"


def _parameter(name: str, parameter: inspect.Parameter) -> str:
    text = f"{name}: {parameter.annotation}"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{text}"
    if parameter.default is PUBLIC_SEED_RPC:
        return f"{text} = PUBLIC_SEED_RPC"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _reasons(kind: type[enum.Enum]) -> Iterator[str]:
    """The members with the comments beside them."""
    for found in re.finditer(r'^    \w+ = "(\w+)"(?:  # (.*))?$', inspect.getsource(kind), re.MULTILINE):
        name, comment = found.groups()
        yield f"- `{name}`" + (f": {comment}." if comment else "")


if __name__ == "__main__":
    sys.exit(main())
