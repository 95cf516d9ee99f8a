"""TOML tables, read key by key: each value is checked for its type, each mistake is noted with its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nconnect.config.locate import KeyPath, Lines
from nconnect.errors import ConfigError

T = TypeVar("T")


class Problems:
    """Collects mistakes. Their lines are looked up at the end, if there are any."""

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._text = text
        self._found: list[tuple[KeyPath, str | None, str]] = []

    def add(self, path: KeyPath, label: str, key: str, message: str, element: str | None = None) -> None:
        where = " ".join(part for part in (label and f"[{label}]", key) if part)
        self._found.append((path, element, f"{where}: {message}" if where else message))

    def raise_any(self) -> None:
        if self._found:
            lines = Lines(self._text)
            located = sorted((lines.find(path, element), text) for path, element, text in self._found)
            raise ConfigError(f"{self._source}:{line}: {text}" for line, text in dict.fromkeys(located))


class Section:
    """A table of the document that is read key by key; keys that were not read are mistakes."""

    def __init__(self, content: Mapping[str, Any], path: KeyPath, label: str, problems: Problems) -> None:
        self.content = content
        self.path = path
        self.label = label
        self.problems = problems
        self._known: list[str] = []

    def problem(self, key: str, message: str, element: object = None) -> None:
        path = (*self.path, key) if key else self.path
        self.problems.add(path, self.label, key, message, element if isinstance(element, str) else None)

    def take(self, key: str, read: Callable[[Any], T], default: T) -> T:
        """The value of `key`, converted by `read`; `default` if it is absent or wrong (then noted)."""
        self._known.append(key)
        if key not in self.content:
            return default
        try:
            return read(self.content[key])
        except ConfigError as error:
            self.problem(key, str(error))
            return default

    def take_list(self, key: str, read: Callable[[str], T]) -> tuple[T, ...]:
        """The strings of a list, each converted by `read`; wrong ones are noted and left out."""
        found = []
        nothing: tuple[str, ...] = ()
        for item in self.take(key, strings, nothing):
            try:
                found.append(read(item))
            except ConfigError as error:
                self.problem(key, str(error), element=item)
        return tuple(found)

    def table(self, key: str) -> Section | None:
        """A sub-table, which the caller must finish."""
        content = self.take(key, section, None)
        return None if content is None else Section(content, (*self.path, key), key, self.problems)

    def finish(self) -> None:
        """Note the keys that were not asked for, each with the known one that looks most like it."""
        for key in self.content:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = f", did you mean {near[0]}?" if near else f": known are {', '.join(self._known)}"
                shown = key if key.isprintable() and len(key) < 60 else repr(key)[:60]
                self.problem(shown, f"unknown{hint}")


def string(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"must be a text in quotes, not {_kind(value)}")
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, without quotes, not {_kind(value)}")
    return value


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"must be a number from {lowest} to {highest}, without quotes")
        if not lowest <= value <= highest:
            shown = str(value) if abs(value) < 10**12 else "this"
            raise ConfigError(f"{shown} is out of range: write a number from {lowest} to {highest}")
        return value

    return read


def one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = string(value)
        if text not in choices:
            near = difflib.get_close_matches(text.lower().replace("-", ""), choices, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(map(repr, choices))}"
            raise ConfigError(f"{text!r} is unknown, {hint}")
        return text

    return read


def strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigError(f"must be a list: write [{value!r}]".replace("'", '"'))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"must be a list of strings in quotes, not {_kind(value)}")
    return tuple(value)


def section(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"must be a section in brackets, not {_kind(value)}")
    return value


def sections(value: object) -> tuple[dict[str, Any], ...]:
    if isinstance(value, dict):
        raise ConfigError("must be written [[peer]], with two brackets, once for each peer")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(f"must be sections written [[peer]], not {_kind(value)}")
    return tuple(value)


def _kind(value: object) -> str:
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a section",
    }
    return kinds.get(type(value), "a time")
