from __future__ import annotations

import pytest

from nconnect.cli.output import (
    bytes_text,
    columns,
    duration_text,
    fits,
    indented,
    ms_text,
    short_keys,
    table,
    time_text,
)


def test_table() -> None:
    assert table(("A", "NUMBER"), [("long name", "1"), ("", "22")], right=(1,)) == [
        "A          NUMBER",
        "long name       1",
        "               22",
    ]
    assert table(("A", "B"), []) == ["A  B"]


def test_the_width_counts_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert columns() is None  # a program reads this
    monkeypatch.setattr("nconnect.cli.output.can_move", lambda: True)
    assert columns() == 80


def test_what_fits() -> None:
    lines = ["12", "1234"]
    assert fits(lines, None)
    assert fits(lines, 4)
    assert not fits(lines, 3)
    assert fits([], 0)


def test_only_the_ends_of_keys() -> None:
    assert short_keys("gpu-box." + "0123456789abcdef" * 4) == "gpu-box.012345…abcdef"
    assert short_keys("gpu-box") == "gpu-box"


def test_long_details_are_wrapped() -> None:
    assert indented("id 1") == ["  id 1"]
    rules = [f"192.168.50.{n}:8000-8010/tcp" for n in range(9)]
    lines = indented(", ".join(rules))
    assert max(map(len, lines)) <= 80
    assert all(line.startswith("  1") for line in lines)
    assert " ".join(line.strip() for line in lines) == ", ".join(rules)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (2 << 40, "2.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_ms_and_time() -> None:
    assert (ms_text(None), ms_text(0.532), ms_text(12.7)) == ("-", "0.53 ms", "13 ms")
    assert (time_text(None), time_text(0.0)) == ("never", "1970-01-01 00:00 UTC")
