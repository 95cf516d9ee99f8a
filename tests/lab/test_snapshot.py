from __future__ import annotations

from lab.snapshot import differences


def test_nothing_changed() -> None:
    assert differences(frozenset({"a", "b"}), frozenset({"b", "a"})) == []


def test_what_is_new_and_what_is_missing() -> None:
    assert differences(frozenset({"a", "b"}), frozenset({"b", "c"})) == ["left: c", "missing: a"]
