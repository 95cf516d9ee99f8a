from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.values import parse_peer_address
from nconnect.errors import ConfigError
from nconnect.invite.pool import pick
from nconnect.model import Config, PeerConfig, ProvideConfig, ProvidedSubnet
from tests.invite.examples import DEVICE


def config(*own: str, peers: tuple[str, ...] = (), seen: str | None = None) -> Config:
    address = parse_peer_address(str(DEVICE))
    subnets = (ProvidedSubnet(ip_network(seen), ip_network(seen)),) if seen else ()
    return Config(
        "nc0",
        bytes(32),
        "gpu-box",
        tuple(map(ip_interface, own)),
        provide=ProvideConfig(subnets=subnets),
        peers=tuple(PeerConfig(f"p{i}", address, (ip_network(p),)) for i, p in enumerate(peers)),
    )


def picked(*arguments: object) -> list[str]:
    return [str(address) for address in pick(*arguments)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "peers", "expected"),
    [
        (["10.86.0.1/24"], (), ["10.86.0.2/24"]),
        (["10.86.0.1/24", "fd86::1/64"], (), ["10.86.0.2/24", "fd86::2/64"]),
        (["10.86.0.9/24"], (), ["10.86.0.1/24"]),
        (["10.86.0.1/24"], ("10.86.0.2/32", "10.86.0.3/32", "10.86.0.5/32"), ["10.86.0.4/24"]),
        (["10.86.0.1/24"], ("10.86.0.0/25",), ["10.86.0.128/24"]),
        (["10.86.0.1/24"], ("10.86.0.0/24", "0.0.0.0/0", "10.86.0.2/32"), ["10.86.0.3/24"]),
        (["10.86.0.1/30"], ("10.86.0.2/32",), None),
        (["10.86.0.0/31"], (), ["10.86.0.1/31"]),
        (["10.86.0.1/32"], (), None),
        (["10.86.0.1/32", "fd86::1/64"], (), ["fd86::2/64"]),
        (["fd86::1/64"], ("fd86::2/127",), ["fd86::4/64"]),
        (["10.86.0.1/24", "10.87.0.1/24"], (), ["10.86.0.2/24"]),
        (["10.86.0.1/32", "10.87.0.1/24"], (), ["10.87.0.2/24"]),
        (["255.255.255.254/31"], (), ["255.255.255.255/31"]),
        (["255.255.255.253/30"], ("255.255.255.254/32",), None),
    ],
)
def test_the_lowest_free(own: list[str], peers: tuple[str, ...], expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="no address is left"):
            pick(config(*own, peers=peers), (), ())
    else:
        assert picked(config(*own, peers=peers), (), ()) == expected


def test_wanted_and_promised() -> None:
    made = config("10.86.0.1/24", "fd86::1/64", peers=("10.86.0.2/32",), seen="10.86.0.64/26")
    assert picked(made, ["10.86.0.7"], []) == ["10.86.0.7/24", "fd86::2/64"]
    assert picked(made, ["10.86.0.7/24", "fd86::77"], []) == ["10.86.0.7/24", "fd86::77/64"]
    assert picked(made, [], ["10.86.0.3"]) == ["10.86.0.4/24", "fd86::2/64"]
    for taken in ("10.86.0.1", "10.86.0.2", "10.86.0.3", "10.86.0.0", "10.86.0.255", "10.86.0.65"):
        with pytest.raises(ConfigError, match=f"{taken} is not free"):
            pick(made, [taken], ["10.86.0.3"])
    with pytest.raises(ConfigError, match=r"choose one from 10\.86\.0\.0/24, fd86::/64"):
        pick(made, ["10.9.0.1"], [])
    with pytest.raises(ConfigError, match="is not an address"):
        pick(made, ["laptop"], [])


@given(
    st.integers(24, 32),
    st.lists(st.tuples(st.integers(0, 255), st.integers(26, 32)), max_size=12),
    st.sets(st.integers(0, 255), max_size=40),
)
def test_against_a_naive_search(length: int, taken: list[tuple[int, int]], kept: set[int]) -> None:
    base = int(ip_address("10.86.0.0"))
    own = ip_interface(f"10.86.0.1/{length}")
    prefixes = [ip_network((base + at, bits), strict=False) for at, bits in taken]
    made = dataclasses.replace(config(str(own)), peers=config(peers=tuple(map(str, prefixes))).peers)
    promised = [str(ip_address(base + at)) for at in kept]
    reserved = {own.ip} | set(map(ip_address, promised))
    if length < 31:
        reserved |= {own.network.network_address, own.network.broadcast_address}
    free = [
        address
        for address in own.network
        if address not in reserved and not any(address in p for p in prefixes if p.prefixlen > length)
    ]
    if free:
        assert picked(made, (), promised) == [f"{free[0]}/{length}"]
    else:
        with pytest.raises(ConfigError):
            pick(made, (), promised)


def test_a_device_without_a_network_of_its_own_cannot_give_addresses() -> None:
    for wanted in ((), ("10.86.0.7",)):
        with pytest.raises(ConfigError, match="no tunnel network of its own"):
            pick(config(), wanted, ())
