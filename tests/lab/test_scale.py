"""The parts of the bench at scale and of its slow link that need no namespaces."""

from __future__ import annotations

import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import cast

import pytest

from lab.bench import profile as profiling
from lab.bench import shaped
from lab.bench.bed import Bed
from lab.bench.compare import Results
from lab.bench.crowd import tunnel_address, user_address
from lab.bench.reach import MANY_CLIENTS, MANY_DIRECT, MANY_PEERS, ONE_DIRECT, ONE_PEER
from lab.bench.scale import _last, _per_peer, clients_label, label
from lab.netns import LabError
from lab.process import Process
from nconnect.model import NknAddress


def test_a_thousand_users_have_addresses_of_their_own() -> None:
    inner = [ip_address(tunnel_address(number)) for number in range(1, 1001)]
    assert len(set(inner)) == 1000
    assert not any(found in ip_network("10.86.0.0/24") for found in inner)  # the bench's own
    assert all(found in ip_network("10.86.0.0/16") for found in inner)
    assert user_address(7) == user_address(7) != user_address(8)
    assert NknAddress.parse(user_address(7)).identifier == "u7"


def test_labels_are_those_of_the_reach() -> None:
    assert (label(1), label(1000)) == (ONE_PEER, MANY_PEERS)
    assert (label(1, direct=True), label(1000, direct=True)) == (ONE_DIRECT, MANY_DIRECT)
    assert clients_label(10_000) == MANY_CLIENTS


def test_memory_of_a_peer_is_what_each_further_one_takes() -> None:
    found = Results()
    for one, many in ((60.0, 80.0), (61.0, 71.0)):
        found.add(label(1), "rss", one)
        found.add(label(101), "rss", many)
    _per_peer(found, (1, 101), direct=False)
    assert found.values[label(101)]["peer_kb"] == pytest.approx([200, 100])
    assert "peer_kb" not in found.values[label(1)]


class FakeProcess:
    def __init__(self, log: Path) -> None:
        self.log = log


@pytest.mark.parametrize(
    ("text", "links"),
    [
        (b"", 0),
        (b'{"at": 1, "links": 3, "sessions": 0, "why": {}}\n{"at": 2, "li', 3),  # half a line is not read
        (b'Traceback\n{"at": 1, "links": 4, "sessions": 0, "why": {}}\nnoise\n7\n', 4),
    ],
)
def test_the_last_whole_line_of_a_crowd_counts(tmp_path: Path, text: bytes, links: int) -> None:
    log = tmp_path / "crowd.log"
    log.write_bytes(text)
    assert _last(cast(Process, FakeProcess(log)))["links"] == links


class FakeMachine:
    def __init__(self) -> None:
        self.value = "bbr"
        self.seen: list[str] = []

    def sysctl(self, name: str, value: str | None = None) -> str:
        assert name == "net.ipv4.tcp_congestion_control"
        if value is not None:
            self.value = value
            self.seen.append(value)
        return self.value


@pytest.fixture
def machines() -> tuple[FakeMachine, ...]:
    return FakeMachine(), FakeMachine(), FakeMachine()


def bed_of(machines: tuple[FakeMachine, ...]) -> Bed:
    return Bed(Path("/nowhere"), *machines)  # type: ignore[arg-type]


def test_the_congestion_control_is_put_back_also_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: tuple[FakeMachine, ...]
) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("reno bbr\n")
    monkeypatch.setattr(shaped, "ALLOWED", allowed)

    def use() -> None:
        with shaped.congestion_control(bed_of(machines), "cubic"):
            assert allowed.read_text() == "reno bbr cubic\n"
            assert [machine.value for machine in machines] == ["cubic"] * 3
            raise LabError("gone")

    with pytest.raises(LabError, match="gone"):
        use()
    assert allowed.read_text() == "reno bbr\n"
    assert [machine.seen for machine in machines] == [["cubic", "bbr"]] * 3


def test_what_is_allowed_already_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: tuple[FakeMachine, ...]
) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("reno bbr cubic\n")
    allowed.chmod(0o400)
    before = allowed.stat().st_mtime_ns
    monkeypatch.setattr(shaped, "ALLOWED", allowed)
    with shaped.congestion_control(bed_of(machines), "cubic"):
        pass
    assert allowed.stat().st_mtime_ns == before


def test_without_py_spy_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="scripts/setup --dev"):
        profiling.profile(tmp_path, 1, lambda line: None, of="nconnect")


def test_a_flame_graph_has_a_title_and_names_that_begin_at_their_beginning() -> None:
    svg = (
        "<script>var truncate_text_right = false;</script>"
        '<text id="title" x="50%">/usr/bin/py-spy record --pid 7</text><text id="details"> </text>'
    )
    assert profiling.readable(svg, "node, 5 s of TCP up") == (
        "<script>var truncate_text_right = true;</script>"
        '<text id="title" x="50%">node, 5 s of TCP up</text><text id="details"> </text>'
    )
