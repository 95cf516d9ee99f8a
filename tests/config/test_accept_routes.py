"""Which prefixes of a provider are routed without asking."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest

from nconnect.config.accept_routes import (
    MAX_PREFIXES,
    not_accepted,
    parse_accept_routes,
    read_accept_routes,
    told,
)
from nconnect.config.edit import new_file
from nconnect.config.file import parse_config
from nconnect.errors import ConfigError
from nconnect.model import AcceptRoutes

HOME = (ip_interface("10.86.0.2/24"), ip_interface("fd86::2/64"))


def refused(setting: AcceptRoutes, *prefixes: str) -> list[str]:
    return [str(prefix) for prefix in not_accepted(setting, map(ip_network, prefixes), HOME)]


@pytest.mark.parametrize(
    "prefix", ["192.168.50.0/24", "10.7.0.0/16", "172.31.0.0/16", "fd50::/64", "fc00:1:2::/48"]
)
def test_private_ones_are_accepted(prefix: str) -> None:
    assert refused("private", prefix) == []
    assert refused("none", prefix) == [prefix]


@pytest.mark.parametrize(
    "prefix",
    [
        *("8.8.8.8/32", "1.0.0.0/8", "128.0.0.0/1", "0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/12"),
        *("192.0.0.0/8", "172.32.0.0/16", "100.64.0.0/16", "::/0", "2001:db8::/48", "fd00::/8"),
        "fc00:1::/32",
    ],
)
def test_others_are_not(prefix: str) -> None:
    assert refused("private", prefix) == [prefix]
    assert refused("all", prefix) == []


def test_a_list_is_exact_and_what_lies_in_it_too() -> None:
    setting = parse_accept_routes("8.8.8.0/24, 192.168.50.0/24")
    assert refused(setting, "8.8.8.8/32", "8.8.8.0/24", "8.8.8.0/23", "192.168.51.0/24", "::/0") == [
        "8.8.8.0/23", "192.168.51.0/24", "::/0",
    ]  # fmt: skip


def test_the_provider_in_the_tunnels_private_network_needs_no_word() -> None:
    assert refused("none", "10.86.0.1/32", "fd86::1/128", "10.87.0.1/32") == ["10.87.0.1/32"]
    public = [ip_interface("8.8.8.2/24")]
    assert not_accepted("none", [ip_network("8.8.8.1/32")], public)


@pytest.mark.parametrize("text", ["", "privat", "Private", "8.8.8.8/8", "none,8.8.8.8/32", "127.0.0.0/8"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_accept_routes(text)


@pytest.mark.parametrize(
    "value", [5, True, None, [], [5], "some", "8.8.8.8/32", {"a": 1}, ["10.0.0.0/8"] * (MAX_PREFIXES + 1)]
)
def test_what_no_file_may_have(value: object) -> None:
    with pytest.raises(ConfigError):
        read_accept_routes(value)


@pytest.mark.parametrize("text", ["private", "none", "all", "8.8.8.8/32,10.0.0.0/8"])
def test_a_file_keeps_it(text: str) -> None:
    setting = parse_accept_routes(text)
    made = new_file(seed=bytes(32), identifier="a", address=["10.86.0.2/24"], accept_routes=told(setting))
    assert parse_config(made, interface="nc0").accept_routes == setting
    assert read_accept_routes(told(setting)) == setting


def test_the_default_and_a_mistake_in_a_file() -> None:
    text = new_file(seed=bytes(32), identifier="a", address=["10.86.0.2/24"])
    assert parse_config(text, interface="nc0").accept_routes == "private"
    with pytest.raises(ConfigError, match=r"nc0.toml:\d+: \[interface\] accept_routes: 'any' is unknown"):
        parse_config(text + 'accept_routes = "any"\n', interface="nc0")
