"""Transactions between rulesets, against a small kernel that checks references as the real one does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.intervals import AddressRange
from nconnect.host.ruleset import (
    AddressMap,
    AddressSet,
    Chain,
    Hook,
    Json,
    Ruleset,
    deletion,
    interface_of_table,
    standby_name,
    table_name,
    transactions,
)


class Kernel:
    """Holds one table; refuses what nft 1.0.6 and the kernel refuse."""

    def __init__(self) -> None:
        self.exists = False
        self.clear()

    def clear(self) -> None:
        self.chains: dict[str, list[list[Json]]] = {}
        self.holders: dict[str, dict[str, Any]] = {}
        self.counters: set[str] = set()

    def run(self, commands: list[Json]) -> None:
        made_here: set[str] = set()
        for command in commands:
            ((verb, what),) = command.items()
            ((kind, value),) = what.items()
            getattr(self, f"{verb}_{kind}")(value, made_here)
        for rules in self.chains.values():
            for target in jumps(rules):
                assert target in self.chains, f"jump to {target}, which is not there"
        for elements in self.holders.values():
            for target in elements.values():
                assert (
                    target is None or target in self.chains or target in self.counters or target == "accept"
                )

    def add_table(self, value: Json, _: set[str]) -> None:
        self.exists = True

    def delete_table(self, value: Json, _: set[str]) -> None:
        assert self.exists
        self.exists = False
        self.clear()

    def add_chain(self, value: Json, made: set[str]) -> None:
        self.chains.setdefault(value["name"], [])
        made.add(value["name"])

    def delete_chain(self, value: Json, _: set[str]) -> None:
        assert not self.chains.pop(value["name"])
        assert not self._is_a_target(value["name"]), "Device or resource busy"

    def flush_chain(self, value: Json, _: set[str]) -> None:
        self.chains[value["name"]].clear()

    def add_rule(self, value: Json, _: set[str]) -> None:
        self.chains[value["chain"]].append(value["expr"])

    def add_set(self, value: Json, _: set[str]) -> None:
        self.holders.setdefault(value["name"], {})

    add_map = add_set

    def delete_set(self, value: Json, _: set[str]) -> None:
        del self.holders[value["name"]]

    delete_map = delete_set

    def add_counter(self, value: Json, _: set[str]) -> None:
        self.counters.add(value["name"])

    def delete_counter(self, value: Json, _: set[str]) -> None:
        self.counters.remove(value["name"])
        assert not self._is_a_target(value["name"]), "Device or resource busy"

    def _is_a_target(self, name: str) -> bool:
        return any(name in elements.values() for elements in self.holders.values())

    def add_element(self, value: Json, made: set[str]) -> None:
        held = self.holders[value["name"]]
        for element in value["elem"]:
            key, target = element if isinstance(element, list) else (element, None)
            assert str(key) not in held, "overlap"
            if isinstance(target, dict):
                target = target["jump"]["target"] if "jump" in target else "accept"
                assert target not in made, "nft 1.0.6 refuses this"
            held[str(key)] = target

    def delete_element(self, value: Json, _: set[str]) -> None:
        for element in value["elem"]:
            key = element[0] if isinstance(element, list) else element
            del self.holders[value["name"]][str(key)]

    def state(self) -> tuple[object, ...]:
        return self.chains, self.holders, self.counters


def jumps(rules: list[list[Json]]) -> list[str]:
    return [s["jump"]["target"] for rule in rules for s in rule if "jump" in s]


_NAMES = ("a", "b", "c", "d")


@st.composite
def rulesets(draw: st.DrawFn) -> Ruleset:
    names = draw(st.lists(st.sampled_from(_NAMES), unique=True))
    verdicts = ["accept", *(f"jump {n}" for n in names)]

    def rules() -> tuple[tuple[Json, ...], ...]:
        chosen = draw(st.lists(st.sampled_from(names), max_size=2)) if names else []
        return tuple(({"jump": {"target": n}},) for n in chosen)

    ranges = st.sampled_from([AddressRange(4, n, n) for n in range(4)] + [AddressRange(4, 9, 12)])
    counters = draw(st.dictionaries(st.sampled_from(["r1", "r2"]), st.just("peer")))
    verdict_map = AddressMap(4, "verdict", draw(st.dictionaries(ranges, st.sampled_from(verdicts))))
    counted = draw(st.dictionaries(ranges, st.sampled_from(sorted(counters)))) if counters else {}
    return Ruleset(
        "nconnect_nc0",
        {"base": Chain(rules(), Hook("filter", "input", 0)), **{n: Chain(rules()) for n in names}},
        {"s": AddressSet(4, tuple(sorted(draw(st.sets(ranges)))))},
        {
            **({"v": verdict_map} if draw(st.booleans()) else {}),
            "n": AddressMap(4, "counter", counted),
        },
        counters,
    )


def loaded(ruleset: Ruleset) -> Kernel:
    kernel = Kernel()
    for commands in transactions(None, ruleset):
        kernel.run(commands)
    return kernel


@given(rulesets(), rulesets())
def test_a_change_leads_to_the_same_as_loading_anew(old: Ruleset, new: Ruleset) -> None:
    kernel = loaded(old)
    steps = transactions(old, new)
    assert len(steps) <= 3
    for commands in steps:
        assert not any("table" in what for command in commands for what in command.values())
        kernel.run(commands)
    assert kernel.state() == loaded(new).state()


@given(rulesets())
def test_no_change_is_no_transaction(ruleset: Ruleset) -> None:
    assert transactions(ruleset, ruleset) == []


@given(rulesets())
def test_whatever_bears_the_name_is_replaced_or_removed(ruleset: Ruleset) -> None:
    kernel = loaded(ruleset)
    for commands in transactions(None, ruleset):
        kernel.run(commands)
    assert kernel.state() == loaded(ruleset).state()
    kernel.run(deletion(ruleset.table))
    assert not kernel.exists
    kernel.run(deletion(ruleset.table))


def tables_of(commands: list[Json]) -> set[str]:
    """Which tables a transaction is about."""
    found = set()
    for command in commands:
        ((_, what),) = command.items()
        ((kind, value),) = what.items()
        found.add(value["name"] if kind == "table" else value["table"])
    return found


def test_while_a_table_is_made_anew_what_stands_by_holds_in_another() -> None:
    shut = Chain((({"drop": None},),), Hook("filter", "postrouting", 300))
    new = Ruleset(
        "nconnect_nc0",
        {"last": shut, "other": Chain(())},
        {"closed4": AddressSet(4, (AddressRange(4, 1, 9),)), "more": AddressSet(4, ())},
        standby=frozenset({"last", "closed4"}),
    )
    before, *anew, after = transactions(None, new)
    standby = standby_name(new.table)
    assert tables_of(before) == tables_of(after) == {standby}
    assert [tables_of(commands) for commands in anew] == [{new.table}]
    assert list(after[-1]) == ["delete"]
    made = {value.get("name") for command in before for what in command.values() for value in what.values()}
    assert made == {standby, "last", "closed4", None}, "rules and elements have no name"
    assert all(standby not in tables_of(commands) for commands in transactions(replace(new, sets={}), new))
    assert standby in tables_of(deletion(new.table)), "also one that a killed daemon left"
    assert interface_of_table(standby) != interface_of_table(new.table)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15))
def test_each_interface_has_its_own_table(interface: str) -> None:
    table = table_name(interface)
    assert interface_of_table(table) == interface
    assert table.isascii()
    assert table.replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("interface", "table"),
    [
        ("nc0", "nconnect_nc0"),
        ("gpu-box", "nconnect_gpu_2dbox"),
        ("a_b", "nconnect_a__b"),
        ("a.1", "nconnect_a_2e1"),
    ],
)
def test_table_names(interface: str, table: str) -> None:
    assert table_name(interface) == table


@pytest.mark.parametrize("table", ["nconnect", "filter", "xnconnect_nc0", ""])
def test_foreign_tables_are_not_ours(table: str) -> None:
    assert interface_of_table(table) is None
