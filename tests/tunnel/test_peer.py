"""A peer's parts: who may write what, as `nconnect.tunnel.peer` says, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent / "nconnect"
MAX_ATTRIBUTES = 20
PEERS = {"peer", "first", "found", "other", "old"}  # what a peer is called where one is at hand
ANYBODY = {"timers", "drops"}  # through their own methods, or a count
WRITERS = {
    "session": {"handshakes"},
    "handshake": {"handshakes"},
    "path": {"manager"},
    "relayed": {"manager"},
    "datagrams": {"direct", "datagram_receiver", "manager"},
    "traffic": {"send_queue", "core", "receiver"},
    "config": {"core"},
    "translation": {"core"},
    "check_at": {"timer_heap"},
    "expired": {"sessions"},
    "doubtful": {"sessions"},
    "left_at": {"sessions"},
    "last_received_at": {"sessions"},
    "rtt_s": {"handshakes", "control_frames"},
    "pinged_at": {"sessions", "control_frames"},
    "statements": {"announcements"},
    "shared_key": {"handshakes", "control_frames"},
}
CHANGE = {"initiated", "responded", "received_on", "expire", "erase"}  # a session's own methods


def writes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(a peer's attribute, line) for each that is assigned, or something in it, or a session that changes."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGE:
            targets = [node.func]
        for target in targets:
            names = chain(target)
            if isinstance(node, ast.Call) and "session" not in names:
                continue
            if len(names) > 1 and names[0] in PEERS:
                yield names[1], target.lineno
            elif len(names) > 1 and names[0] in WRITERS:  # a part at hand
                yield names[0], target.lineno


def chain(node: ast.expr) -> list[str]:
    """The names of `a.b.c[…] = …`: a, b, c."""
    if isinstance(node, ast.Subscript):
        return chain(node.value)
    if isinstance(node, ast.Attribute):
        before = chain(node.value)
        return [*before, node.attr] if before else []
    return [node.id] if isinstance(node, ast.Name) else []


def test_each_part_is_written_by_its_own_module() -> None:
    seen = set()
    for file in ROOT.rglob("*.py"):
        for attribute, line in writes(ast.parse(file.read_text())):
            if attribute in ANYBODY or file.name == "peer.py":
                continue
            if file.parts[len(ROOT.parts)] not in ("tunnel", "daemon"):
                continue
            assert file.stem in WRITERS.get(attribute, ()), f"{file}:{line} writes a peer's {attribute}"
            seen.add((attribute, file.stem))
    assert {"session", "handshake", "relayed", "traffic"} <= {attribute for attribute, _ in seen}


def test_what_writes_is_seen() -> None:
    source = """
peer.path.lane = x
peer.handshake.attempts += 1
path.order = y
peer.session.erase()
del peer.pinged_at[1]
peer.relayed.order.expire()
z = peer.path.lane
"""
    found = sorted((line, name) for name, line in writes(ast.parse(source)))
    assert [name for _, name in found] == ["path", "handshake", "path", "session", "pinged_at"]


def test_no_class_of_the_tunnel_has_more_attributes_than_one_can_keep_in_mind() -> None:
    for file in (ROOT / "tunnel").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.name != "DirectPath":  # has one more
                attributes = {
                    name[1]
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Attribute)
                    and isinstance(inner.ctx, ast.Store)
                    and len(name := chain(inner)) == 2
                    and name[0] == "self"
                }
                assert len(attributes) <= MAX_ATTRIBUTES, f"{file}: {node.name} has {sorted(attributes)}"
