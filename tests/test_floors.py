"""Imports go downward only; the lower three floors touch no clock, no randomness, no I/O and no log."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "nconnect"
FLOORS = {
    "model": 1, "config": 1, "errors": 1,
    "wire": 2, "ip": 2, "crypto": 2, "queueing": 2,
    "tunnel": 3, "invite": 3, "offers": 3, "nat": 3, "nkn": 3, "ncp": 3, "node": 3, "host": 3, "doctor": 3,
    "io": 4, "control": 4, "sdk": 4, "streams": 4,
    "daemon": 5,
    "cli": 6, "__main__": 6,
    "__version__": 0,
}  # fmt: skip
PURE_FLOORS = range(1, 4)
# Pure modules of the floors above.
PURE_ABOVE = {f"nconnect.streams.{name}" for name in ("dialler", "target", "socks5", "http_connect", "entry")}

# All that the pure floors may import from outside: modules that only compute. Those that tell the time, draw
# random numbers, read, write, wait or log are not in the list, and neither is a module nobody thought of.
PURE = {
    "__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "collections.abc", "copy",
    "dataclasses", "datetime", "difflib", "enum", "errno", "functools", "hashlib", "heapq", "hmac",
    "ipaddress", "itertools", "json", "math", "operator", "re", "shlex", "string", "struct", "textwrap",
    "tomllib", "types", "typing", "unicodedata", "urllib.parse", "zlib",
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.kdf.hkdf",
    "h11",
    "nacl.bindings", "nacl.exceptions",
    "tomlkit", "tomlkit.exceptions",
}  # fmt: skip
# Of these only a part, such as the half of `pathlib` that does not touch the disk.
PURE_NAMES = {
    "html": {"escape"},
    "http": {"HTTPStatus"},
    "nacl": {"bindings"},
    "xml.etree.ElementTree": {"Element", "ParseError", "TreeBuilder", "XMLParser"},
    "pathlib": {"PurePath", "PurePosixPath"},
}
# What reaches the machine without an import ...
BUILTINS = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}
# ... and what the pure modules hold besides: clocks, and keys and nonces that a library draws itself.
CLOCKS = {"now", "today", "utcnow"}
DATES = {"datetime", "datetime.datetime", "date", "datetime.date"}
DRAWN = {"generate", "generate_key", "randombytes", "crypto_box_keypair", "crypto_sign_keypair"}

# The one exception: `from nconnect.nkn import Client` is a public name, and the client is I/O. The module
# imports it, from above, when the name is asked for; what is pure in `nconnect.nkn` is imported without it.
LAZY = "nconnect.nkn"
MODULES = sorted(p for p in ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> int:
    """0 for the package itself."""
    parts = module.split(".")
    return FLOORS[parts[1]] if len(parts) > 1 else 0


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name in it or "") of every import; those inside functions count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def impurities(tree: ast.Module) -> Iterator[str]:
    """What in a module reaches the clock, chance or the machine."""
    for module, name in imports_of(tree):
        if module.partition(".")[0] == "nconnect":
            continue
        if module not in PURE and name not in PURE_NAMES.get(module, ()):
            yield f"imports {module}"
        elif name in DRAWN:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            yield f"uses {node.id}"
        elif isinstance(node, ast.Attribute) and (
            node.attr in DRAWN or (node.attr in CLOCKS and ast.unparse(node.value) in DATES)
        ):
            yield f"uses {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward_only(path: Path) -> None:
    module = name_of(path)
    for imported, name in imports_of(ast.parse(path.read_text())):
        whole = f"{imported}.{name}" if imported == "nconnect" else imported
        if whole.startswith("nconnect.") and module != LAZY:
            assert floor_of(whole) <= floor_of(module), f"{module} imports {whole} from above"


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in MODULES
        if (floor_of(name_of(path)) in PURE_FLOORS and name_of(path) != LAZY) or name_of(path) in PURE_ABOVE
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_lower_floors_are_pure(path: Path) -> None:
    assert not list(impurities(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "source",
    [
        "import logging",
        "from time import monotonic",
        "import os.path",
        "import concurrent.futures",
        "def f():\n    import socket",
        "import urllib.request",
        "from pathlib import Path",
        "import uuid",
        "import websockets",
        "from cryptography.hazmat.primitives.asymmetric import ed25519",
        "open('x')",
        "print('x')",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\nclock = datetime.now",
        "import nacl",
        "from nacl.bindings import randombytes",
        "import nacl.bindings\nnacl.bindings.randombytes(3)",
    ],
)
def test_what_is_not_pure_is_seen(source: str) -> None:
    assert list(impurities(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "from collections.abc import Callable",
        "from datetime import UTC, datetime\ndatetime.fromtimestamp(now, UTC)",
        "from pathlib import PurePath",
        "from nacl import bindings\nbindings.crypto_sign_seed_keypair(seed)",
        "self.now",
        "from nconnect.errors import ConfigError",
    ],
)
def test_what_is_pure_is_let_be(source: str) -> None:
    assert not list(impurities(ast.parse(source)))


# What each part of the checkout may not import: the package ships alone, and the tests stand on the lab.
ABOVE = {"nconnect": {"lab", "tests", "netns_tests"}, "lab": {"tests", "netns_tests"}}


@pytest.mark.parametrize("part", ABOVE)
def test_no_part_imports_what_stands_on_it(part: str) -> None:
    for path in (ROOT.parent / part).rglob("*.py"):
        imported = {module for module, _ in imports_of(ast.parse(path.read_text()))}
        above = {name for name in imported if name.partition(".")[0] in ABOVE[part]}
        assert not above, f"{path.relative_to(ROOT.parent)} imports {above}"


def test_the_exception_imports_nothing_from_above_by_itself() -> None:
    code = "import sys, nconnect.nkn.link; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "nconnect.nkn.link" in loaded
    assert not {"asyncio", "nconnect.sdk", "nconnect.io"} & set(loaded)
