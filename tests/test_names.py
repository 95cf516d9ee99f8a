"""A reader meets one thing under one name.

- A class, or an alias of a type, is defined once in the package.
- A function or constant may stand in several modules (`load`, `decode`, `MAX_SERVERS`) as long as nobody
  imports it by itself: then its module says which one it is (`stun.decode`), or the alias does
  (`import run as run_node`).
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.test_floors import ROOT, name_of

ALLOWED = {
    "LinkStatus": "the public name of the SDK, and the name of the schema in docs/openapi.json",
    "Message": "the public name of the SDK, and the name in NKN's protocol",
    "Stream": "the public name of the SDK, and the shape that it shares with other streams",
    "Output": "what a state machine asks of its shell: one union for each machine",
}


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's statements, with those under its `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from statements((*node.body, *node.orelse))


def definitions(tree: ast.Module) -> set[str]:
    """The public names that a module defines."""
    found: set[str] = set()
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def taken_alone(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of what a module imports by itself, and under no other name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names if alias.asname is None)


def is_type(name: str) -> bool:
    """Whether it is written as the name of a class or a type (`Link`), not of a constant (`MAX_LINKS`)."""
    return name[0].isupper() and not name.isupper()


def doubled(sources: dict[str, str]) -> dict[str, list[str]]:
    """The names that break the rules, with the modules that define them."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    where: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for name in definitions(tree):
            where[name].append(module)
    alone = {taken for tree in trees.values() for taken in taken_alone(tree)}
    return {
        name: sorted(modules)
        for name, modules in where.items()
        if len(modules) > 1 and (is_type(name) or any((module, name) in alone for module in modules))
    }


def test_a_name_has_one_meaning() -> None:
    found = doubled({name_of(path): path.read_text() for path in ROOT.rglob("*.py")})
    new = {name: modules for name, modules in found.items() if name not in ALLOWED}
    assert not new, "rename one of each, or use it as module.name"
    assert not ALLOWED.keys() - found.keys(), "no longer doubled: take it from the list"


def test_what_misleads_is_seen() -> None:
    one = "class Link: ...\ndef load(): ...\nLATE_S = 1.0\nBoth = int | str\n_Own = int"
    other = "if 1:\n    class Link: ...\nasync def load(): ...\nLATE_S: float = 2.0\nBoth = str\n_Own = str"

    def names(user: str) -> set[str]:
        return set(doubled({"p.one": one, "p.other": other, "p.user": user}))

    assert names("") == {"Link", "Both"}
    assert names("from p.one import load\nfrom p.other import LATE_S") == {"Link", "Both", "load", "LATE_S"}
    assert names("from p import one, load\nfrom p.other import load as load_other") == {"Link", "Both"}
