from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from nconnect.config.table import Problems, Section, boolean, integer, one_of, sections, string, strings
from nconnect.errors import ConfigError

TEXT = """\
[section]
name = 7
ports = ["80", "many", "443"]
mtuu = 1500
"""


def read(text: str) -> tuple[Section, Problems]:
    problems = Problems("nc0.toml", text)
    return Section(tomllib.loads(text), (), "", problems), problems


def port(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{text!r} is no port")
    return int(text)


def test_each_mistake_has_its_line_and_the_rest_is_read() -> None:
    root, problems = read(TEXT)
    section = root.table("section")
    assert section is not None
    assert section.take("name", string, "default") == "default"
    assert section.take("mtu", integer(576, 65535), 1500) == 1500
    assert section.take_list("ports", port) == (80, 443)
    section.finish()
    root.finish()
    with pytest.raises(ConfigError) as error:
        problems.raise_any()
    assert error.value.problems == (
        "nc0.toml:2: [section] name: must be a text in quotes, not a number",
        "nc0.toml:3: [section] ports: 'many' is no port",
        "nc0.toml:4: [section] mtuu: unknown, did you mean mtu?",
    )


def test_a_section_that_is_not_there_is_none_and_no_mistake() -> None:
    root, problems = read("")
    assert root.table("node") is None
    root.finish()
    problems.raise_any()


@pytest.mark.parametrize(
    ("reader", "good", "bad", "why"),
    [
        (boolean, True, "true", "true or false, without quotes, not a text"),
        (boolean, False, 0, "true or false"),
        (integer(1, 9), 9, 10, "10 is out of range: write a number from 1 to 9"),
        (integer(1, 9), 1, True, "without quotes"),
        (integer(1, 9), 5, 10**20, "this is out of range"),
        (one_of(("auto", "aes256gcm")), "auto", "AES-256-GCM", "did you mean 'aes256gcm'"),
        (strings, ["a"], "a", r'must be a list: write \["a"\]'),
        (strings, [], ["a", 1], "not a list"),
        (sections, [{}], {}, r"written \[\[peer\]\]"),
        (sections, [], [1], r"written \[\[peer\]\]"),
    ],
)
def test_kinds(reader: Callable[[object], Any], good: object, bad: object, why: str) -> None:
    found = reader(good)
    assert (list(found) if isinstance(found, tuple) else found) == good
    with pytest.raises(ConfigError, match=why):
        reader(bad)
