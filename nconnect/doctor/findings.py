"""Findings: a sentence, a level, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

Argv = tuple[str, ...]


class Level(Enum):
    """How bad a finding is; the value is its word in the output and in JSON."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of output. `mend` tells a person what to do: a command, or what to write where."""

    check: str
    level: Level
    text: str
    mend: str = ""
    fix: tuple[Argv, ...] = ()  # what `--fix` runs: safe, and enough

    def to_json(self) -> dict[str, object]:
        return {
            "check": self.check,
            "level": self.level.value,
            "text": self.text,
            "mend": self.mend or None,
            "fixable": bool(self.fix),
        }


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, mend: str = "", fix: Iterable[Argv] = ()) -> Finding:
    return Finding(check, Level.WARNING, text, mend, tuple(fix))


def failure(check: str, text: str, mend: str = "", fix: Iterable[Argv] = ()) -> Finding:
    return Finding(check, Level.FAILURE, text, mend, tuple(fix))
