from __future__ import annotations

import pytest

from nconnect.config.locate import KeyPath, Lines

TEXT = """\
top = 1
dotted.key = 2

[interface]  # a comment
  seed = "a = b"
list = [
  "one",
  "two",
]
[[peer]]
name = "a"
[[ peer ]]
"name" = "b"
[a.b]
c = {d = 1}
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("dotted", "key"), 2),
        (("dotted",), 2),
        (("interface",), 4),
        (("interface", "seed"), 5),
        (("interface", "missing"), 4),
        (("peer", 0), 10),
        (("peer", 0, "name"), 11),
        (("peer", 1, "name"), 13),
        (("peer", 1, "missing"), 12),
        (("a", "b", "c", "d"), 15),
        (("nowhere",), 1),
        ((), 1),
    ],
)
def test_find(path: KeyPath, line: int) -> None:
    assert Lines(TEXT).find(path) == line


def test_find_element_of_a_list() -> None:
    lines = Lines(TEXT)
    assert lines.find(("interface", "list"), "two") == 8
    assert lines.find(("interface", "list"), "three") == 6
    assert lines.find(("interface", "list"), "name") == 6  # of another key
