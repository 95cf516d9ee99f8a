"""Which port direct paths get, and what happens when it cannot be had."""

from __future__ import annotations

import dataclasses
import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nconnect.daemon.direct_sockets import STORED, is_wanted, open_sockets
from nconnect.errors import HostError
from nconnect.io.files.state import StateStore
from nconnect.io.net.datagrams import DatagramSocket
from nconnect.model import Config, DirectMode, NetworkConfig, NknAddress, PeerConfig

BARE = Config("nc7", bytes(32), "gpu", ())


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else has."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("", 0))
        yield other.getsockname()[1]


def configured(port: int | None = None, direct: DirectMode = "on") -> Config:
    return dataclasses.replace(BARE, network=NetworkConfig(direct=direct, direct_port=port))


def peer(direct: DirectMode | None) -> PeerConfig:
    return PeerConfig("laptop", NknAddress("laptop", bytes(32)), (), direct=direct)


def test_a_drawn_port_is_kept_for_both_ip_versions(store: StateStore) -> None:
    with closing(open_sockets(BARE, store)) as first:
        assert {version: each.port for version, each in first.datagrams.items()} == dict.fromkeys(
            (4, 6), first.port
        )
        assert store.load(STORED) == first.port
    with closing(open_sockets(BARE, store, draw=lambda _: pytest.fail("there is one"))) as again:
        assert again.port == first.port


@pytest.mark.parametrize("kept", ["a text", -1, 80, 40_000, True, None, [16_384]])
def test_what_is_kept_and_is_no_port_is_replaced(store: StateStore, kept: object) -> None:
    store.save(STORED, kept)
    with closing(open_sockets(BARE, store)) as found:
        assert 16_384 <= found.port < 30_000
        assert store.load(STORED) == found.port


def test_a_drawn_port_that_is_taken_at_the_next_start_is_drawn_anew(
    store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_sockets(BARE, store)) as first, closing(open_sockets(BARE, store)) as second:
        assert second.port != first.port
        assert store.load(STORED) == second.port
    assert f"port {first.port}, which direct paths used before, is taken" in caplog.text


def test_draws_end(store: StateStore) -> None:
    with closing(open_sockets(BARE, store)) as first:
        always = first.port - 16_384
        with pytest.raises(HostError, match="choose a direct_port that is free"):
            open_sockets(BARE, store, draw=lambda _: always)


def test_a_configured_port_that_is_taken_is_one_line(store: StateStore, taken: int) -> None:
    with pytest.raises(HostError, match=rf"cannot use UDP port {taken} .*in use \(choose another"):
        open_sockets(configured(taken), store)
    assert store.load(STORED) is None


def test_a_port_that_is_free_for_one_ip_version_alone_leaves_nothing_open(store: StateStore) -> None:
    with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("", 0))
        port = other.getsockname()[1]
        with pytest.raises(HostError, match="in use"):
            open_sockets(configured(port), store)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
            free.bind(("", port))


def test_a_configured_port_is_used_and_not_kept(store: StateStore) -> None:
    with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as free:  # for both IP versions
        free.bind(("", 0))
        port = free.getsockname()[1]
    with closing(open_sockets(configured(port), store)) as found:
        assert found.port == port
        assert store.load(STORED) is None


@pytest.mark.parametrize(
    ("network", "of_peer", "wanted"),
    [
        ("on", None, True),
        ("no-host", None, True),
        ("on", "off", True),  # somebody may be added
        ("off", None, False),
        ("off", "off", False),
        ("off", "on", True),
        ("off", "no-host", True),
    ],
)
def test_off_for_all_opens_nothing(
    store: StateStore, network: DirectMode, of_peer: DirectMode | None, wanted: bool
) -> None:
    config = dataclasses.replace(configured(direct=network), peers=(peer(of_peer),))
    assert is_wanted(config) is wanted
    with closing(open_sockets(config, store)) as found:
        assert bool(found.datagrams) is bool(found.port) is wanted
    assert (store.load(STORED) is not None) is wanted


def test_a_machine_without_ipv6_uses_ipv4_alone(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DatagramSocket.bind

    def bind(version: int, port: int) -> DatagramSocket:
        if version == 6:
            raise HostError("no IPv6") from OSError(errno.EAFNOSUPPORT, "no such family")
        return whole(version, port)

    monkeypatch.setattr(DatagramSocket, "bind", bind)
    with closing(open_sockets(BARE, store)) as found:
        assert list(found.datagrams) == [4]


def test_a_disk_that_is_full_is_no_reason_not_to_start(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, value: object) -> None:
        raise HostError("no space left")

    monkeypatch.setattr(store, "save", full)
    with closing(open_sockets(BARE, store)) as found:
        assert found.port
