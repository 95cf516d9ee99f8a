"""The line of a key in a TOML text. Needed only to describe mistakes, so it simply scans the lines."""

from __future__ import annotations

import re
from collections import Counter

KeyPath = tuple[str | int, ...]  # ("interface", "mtu"), ("peer", 2, "allowed_ips", 0)

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_ASSIGNMENT = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


class Lines:
    """The line number (from 1) of each key and header of a text."""

    def __init__(self, text: str) -> None:
        self._texts = text.split("\n")
        self._line_of: dict[KeyPath, int] = {(): 1}
        counts: Counter[str] = Counter()
        table: KeyPath = ()
        for number, line in enumerate(self._texts, 1):
            if header := _HEADER.match(line):
                table = _parts(header[2])
                if header[1] == "[[":
                    table += (counts[header[2]],)
                    counts[header[2]] += 1
                self._line_of.setdefault(table, number)
            elif assignment := _ASSIGNMENT.match(line):
                path = table + _parts(assignment[1])
                for length in range(len(table) + 1, len(path) + 1):
                    self._line_of.setdefault(path[:length], number)

    def find(self, path: KeyPath, element: str | None = None) -> int:
        """The line of `path`, or of the table around it. `element`: find that element of the list instead."""
        while path not in self._line_of:
            path = path[:-1]
        line = self._line_of[path]
        if element is not None:
            later = sorted(n for n in self._line_of.values() if n > line)
            for number in range(line, later[0] if later else len(self._texts) + 1):
                if element in self._texts[number - 1]:
                    return number
        return line


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
