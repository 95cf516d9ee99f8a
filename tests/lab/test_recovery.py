"""The table of recovery times."""

from __future__ import annotations

import pytest

from lab.recovery import page
from lab.recovery.faults import FAULTS


def test_the_table_has_a_cell_for_each_tunnel() -> None:
    times = {
        ("killed", "ours"): (0.034, 2.71),
        ("killed", "theirs"): (12.6, None),
        ("cut", "ours"): (None, None),
    }
    assert page.table(["killed", "cut"], ["ours", "theirs"], times, limit_s=60) == (
        "| fault | ours | theirs |\n|---|---|---|\n"
        "| killed | 0.03 s, 2.7 s | 13 s, never |\n"
        "| cut | not within 60 s |  |"
    )


def test_it_is_put_into_its_place_again_and_again() -> None:
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    once = page.place(text, "| new |")
    assert once == f"before\n{page.BEGIN}\n\n| new |\n\n{page.END}\nafter\n"
    assert page.place(once, "| new |") == once
    with pytest.raises(ValueError, match="no place"):
        page.place("nothing of it", "| new |")


def test_the_page_has_the_place_and_names_every_fault() -> None:
    text = page.PAGE.read_text()
    table = text.partition(page.BEGIN)[2].partition(page.END)[0]
    missing = [fault.name for fault in FAULTS if f"| {fault.name} |" not in table]
    assert missing == [], "scripts/recovery --docs writes them"


def test_the_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
