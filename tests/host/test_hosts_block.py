"""Our block in a hosts file, and that every other line stays."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.hosts_block import with_block, without_block
from nconnect.offers.name_codec import Names

OTHERS = b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n\n# a note\n10.0.0.5\tnas # mine\n"
NAMES: Names = {
    "gpu-box.internal": (ip_address("10.86.0.1"), ip_address("fd86::1")),
    "nas.gpu-box.internal": (ip_address("192.168.50.20"),),
}
BLOCK = (
    b"# nconnect nc0 begin (kept by the daemon while nc0 is up)\n"
    b"10.86.0.1 gpu-box.internal\nfd86::1 gpu-box.internal\n192.168.50.20 nas.gpu-box.internal\n"
    b"# nconnect nc0 end\n"
)


def test_the_block_stands_at_the_end_and_goes_without_a_trace() -> None:
    written = with_block(OTHERS, "nc0", NAMES)
    assert written == OTHERS + BLOCK
    assert with_block(written, "nc0", NAMES) == written
    assert with_block(written, "nc0", {}) == OTHERS
    assert with_block(b"", "nc0", NAMES) == BLOCK
    assert with_block(b"127.0.0.1 a", "nc0", NAMES) == b"127.0.0.1 a\n" + BLOCK


def test_each_interface_has_its_own() -> None:
    both = with_block(with_block(OTHERS, "nc0", NAMES), "nc01", NAMES)
    assert without_block(both, "nc01") == OTHERS + BLOCK
    assert without_block(without_block(both, "nc0"), "nc01") == OTHERS
    # Neither has anything to write while both are there, and a change of one moves no other.
    assert with_block(both, "nc0", NAMES) == both
    assert with_block(both, "nc01", NAMES) == both
    changed = with_block(both, "nc0", {"gpu-box.internal": (ip_address("10.86.0.9"),)})
    assert changed.index(b"nc0 begin") < changed.index(b"10.86.0.9") < changed.index(b"nc01 begin")
    assert with_block(changed, "nc0", NAMES) == both


def test_lines_that_others_put_into_the_block_or_behind_it_stay() -> None:
    lines = BLOCK.splitlines(keepends=True)
    mixed = b"".join([*lines[:2], b"192.168.1.9 printer\n", *lines[2:], b"10.9.9.9 after\n"])
    assert with_block(OTHERS + mixed, "nc0", {}) == OTHERS + b"192.168.1.9 printer\n10.9.9.9 after\n"


@pytest.mark.parametrize("lost", [0, 4])
def test_a_mark_without_its_partner_takes_no_line_of_others_along(lost: int) -> None:
    lines = BLOCK.splitlines(keepends=True)
    del lines[lost]
    rest = without_block(b"".join(lines) + b"10.0.0.7 box.example\n" + OTHERS, "nc0")
    assert rest.endswith(b"10.0.0.7 box.example\n" + OTHERS)


@given(st.lists(st.sampled_from([*BLOCK.splitlines(keepends=True), b"10.0.0.5 nas\n", b"# x\n", b"\n"])))
def test_no_line_of_others_is_ever_lost(lines: list[bytes]) -> None:
    ours = set(BLOCK.splitlines(keepends=True))
    kept = without_block(b"".join(lines), "nc0").splitlines(keepends=True)
    assert [line for line in kept if line not in ours] == [line for line in lines if line not in ours]
    assert without_block(b"".join(kept), "nc0") == b"".join(kept)
