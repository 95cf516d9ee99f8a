from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.signing import SigningKey

from nconnect.config import values
from nconnect.config.values import parse_listen
from nconnect.errors import ConfigError
from nconnect.model import AllowRule, Exposed, ProvidedSubnet, Service

KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # RFC 8032, 7.1, test 1
NOW = 1_790_000_000.0  # 2026-09-21
DAY = 86_400


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("192.168.50.0/28", AllowRule(ip_network("192.168.50.0/28"))),
        ("192.168.50.11", AllowRule(ip_network("192.168.50.11/32"))),
        ("192.168.50.11/icmp", AllowRule(ip_network("192.168.50.11/32"), None, "icmp")),
        ("192.168.50.0/24/udp", AllowRule(ip_network("192.168.50.0/24"), None, "udp")),
        ("192.168.50.10:8000", AllowRule(ip_network("192.168.50.10/32"), (8000, 8000))),
        ("192.168.50.10:8000/tcp", AllowRule(ip_network("192.168.50.10/32"), (8000, 8000), "tcp")),
        ("192.168.50.0/24:1-65535/tcp", AllowRule(ip_network("192.168.50.0/24"), (1, 65535), "tcp")),
        ("fd00::/64", AllowRule(ip_network("fd00::/64"))),
        ("fd00::1/tcp", AllowRule(ip_network("fd00::1/128"), None, "tcp")),
        ("[fd00::/64]", AllowRule(ip_network("fd00::/64"))),
        ("[fd00::1]:80-90/udp", AllowRule(ip_network("fd00::1/128"), (80, 90), "udp")),
        ("[fd00::/64]:80", AllowRule(ip_network("fd00::/64"), (80, 80))),
        ("[fd00::]/icmp", AllowRule(ip_network("fd00::/128"), None, "icmp")),
    ],
)
def test_allow_rule(text: str, rule: AllowRule) -> None:
    assert values.parse_allow_rule(text) == rule
    assert values.parse_allow_rule(values.format_allow_rule(rule)) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not an allow entry"),
        ("/tcp", "is not an allow entry"),
        ("8000/tcp", "is not an allow entry"),
        ("gpu-box:8000/tcp", "is not an IP prefix"),
        ("192.168.50.10/sctp", "not a protocol that can be allowed"),
        ("192.168.50.10/TCP", "not a protocol that can be allowed"),
        ("192.168.50.10:80/icmp", "icmp has no ports: write 192.168.50.10/icmp"),
        ("192.168.50.10:0/tcp", "is not a port"),
        ("192.168.50.10:65536/tcp", "is not a port"),
        ("192.168.50.10:/tcp", "is not a port"),
        ("192.168.50.10:9-3/tcp", "write 3-9"),
        ("192.168.50.10:8000/tcp/tcp", "is not a port"),
        ("192.168.50.1/24:80/tcp", "write 192.168.50.0/24 for the network, or 192.168.50.1/32 for the host"),
        ("[fd00::1:80/tcp", "is not an allow entry"),
        ("[fd00::1]80/tcp", "is not an allow entry"),
        ("127.0.0.1:80/tcp", "cannot pass a tunnel"),
        ("192.168.50.10:\u0663/tcp", "is not a port"),
    ],
)
def test_allow_rule_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values.parse_allow_rule(text)
    assert says in str(caught.value)


PARSERS: list[Callable[[str], object]] = [
    values.parse_allow_rule,
    values.parse_expose,
    values.parse_key,
    values.parse_peer_address,
    values.parse_prefix,
    values.parse_seed,
    values.parse_seed_rpc,
    values.parse_service,
    values.parse_subnet,
    values.check_host,
    values.check_identifier,
    values.check_interface_name,
    values.check_peer_name,
    parse_listen,
    lambda text: values.parse_addresses([text]),
    lambda text: values.parse_prefixes([text]),
    lambda text: values.parse_expires(text, now=NOW),
]
WORDS = st.sampled_from(
    [
        "10.0.0.1",
        "fd00::1",
        "/24",
        "/",
        ":",
        "80",
        "-",
        "[",
        "]",
        "tcp",
        "=",
        "http://",
        "x",
        ".",
        "%",
        "30d",
        KEY,
    ]
)


@given(st.one_of(st.text(), st.lists(WORDS).map("".join)), st.sampled_from(PARSERS))
def test_any_text_is_a_value_or_a_config_error(text: str, parser: Callable[[str], object]) -> None:
    with contextlib.suppress(ConfigError):
        parser(text)


@given(
    st.ip_addresses(v=4),
    st.integers(0, 32),
    st.none() | st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
)
def test_allow_rule_formats_back(address: object, length: int, ports: tuple[int, int] | None) -> None:
    prefix = ip_network(f"{address}/{length}", strict=False)
    if values._is_special(prefix.network_address):
        return
    for protocol in (None, "tcp", "udp"):
        rule = AllowRule(prefix, ports and (min(ports), max(ports)), protocol)
        assert values.parse_allow_rule(values.format_allow_rule(rule)) == rule


def test_prefixes() -> None:
    assert values.parse_prefixes(["10.86.0.2", "192.168.50.0/24", "fd00::/64", "0.0.0.0/0"]) == tuple(
        map(ip_network, ("10.86.0.2/32", "192.168.50.0/24", "fd00::/64", "0.0.0.0/0"))
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.168.50.3/24", "write 192.168.50.0/24 for the network, or 192.168.50.3/32 for the host"),
        ("fd00::3/64", "write fd00::/64 for the network, or fd00::3/128 for the host"),
        ("192.168.50.0/33", "is not an IP prefix"),
        ("192.168.50/24", "is not an IP prefix"),
        ("", "is not an IP prefix"),
        ("224.0.0.0/4", "cannot pass a tunnel"),
        ("169.254.0.0/16", "cannot pass a tunnel"),
        ("127.0.0.0/8", "cannot pass a tunnel"),
        ("fe80::/64", "cannot pass a tunnel"),
        ("::ffff:10.0.0.0/104", "cannot pass a tunnel"),
        ("::1", "cannot pass a tunnel"),
    ],
)
def test_prefix_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values.parse_prefixes([text])
    assert says in str(caught.value)


def test_addresses() -> None:
    texts = ("10.86.0.1/24", "fd86::2/64", "10.0.0.0/31", "10.0.0.1/32")
    assert values.parse_addresses(texts) == tuple(map(ip_interface, texts))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.86.0.1", "has no prefix length: write 10.86.0.1/24"),
        ("fd86::1", "has no prefix length: write fd86::1/64"),
        ("10.86.0.0/24", "is the network itself: write 10.86.0.1/24"),
        ("10.86.0.255/24", "broadcast address: write 10.86.0.254/24"),
        ("127.0.0.1/8", "cannot be a tunnel address"),
        ("224.0.0.1/4", "cannot be a tunnel address"),
        ("0.0.0.0/0", "cannot be a tunnel address"),
        ("fe80::1/64", "cannot be a tunnel address"),
        ("10.86.0.1/33", "not an address with a prefix length"),
        ("gpu-box", "not an address with a prefix length"),
    ],
)
def test_address_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values.parse_addresses([text])
    assert says in str(caught.value)


def test_subnets() -> None:
    lan, seen = ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24")
    assert values.parse_subnet("192.168.1.0/24") == ProvidedSubnet(lan, lan)
    assert values.parse_subnet("192.168.1.0/24=10.99.1.0/24") == ProvidedSubnet(lan, seen)


@pytest.mark.parametrize(
    "text", ["192.168.1.0/24=10.99.0.0/16", "192.168.1.0/24=fd00::/24", "192.168.1.0/24="]
)
def test_subnet_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        values.parse_subnet(text)


def test_services_and_expose() -> None:
    assert values.parse_service("8000/tcp") == Service((8000, 8000), "tcp")
    assert values.parse_service("5000-5010/udp") == Service((5000, 5010), "udp")
    assert values.parse_expose("127.0.0.1:11434") == Exposed("127.0.0.1", 11434)
    assert values.parse_expose("[::1]:80") == Exposed("::1", 80)


@pytest.mark.parametrize("text", ["8000", "8000/icmp", "/tcp", "80-/tcp", "x/tcp", "0/tcp", "8000/tcp/udp"])
def test_service_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write|port"):
        values.parse_service(text)


@pytest.mark.parametrize(
    "text", ["192.168.1.1:80", "localhost:80", "127.0.0.1", "::1:80", "[::1]", "127.0.0.1:x"]
)
def test_expose_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write|for servers"):
        values.parse_expose(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("never", None),
        ("30d", NOW + 30 * DAY),
        ("24h", NOW + DAY),
        ("2w", NOW + 14 * DAY),
        ("2026-12-31", 1_798_675_200.0),
        ("2026-12-31T12:00:00Z", 1_798_675_200.0 + DAY / 2),
        ("2026-12-31T12:00:00+02:00", 1_798_675_200.0 + 10 * 3600),
    ],
)
def test_expires(text: str, at: float | None) -> None:
    assert values.parse_expires(text, now=NOW) == at


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2020-01-01", "is in the past"),
        ("0d", "is in the past"),
        ("soon", "is not a time"),
        ("30", "is not a time"),
        ("2026-02-30", "is not a time"),
        ("999999999w", "too far away"),
    ],
)
def test_expires_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values.parse_expires(text, now=NOW)
    assert says in str(caught.value)


def test_peer_address() -> None:
    assert str(values.parse_peer_address(f"gpu-box.{KEY}")) == f"gpu-box.{KEY}"
    assert values.parse_peer_address(KEY).identifier == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu-box", "is not an NKN address"),
        (f"gpu-box.{KEY[:-1]}", "is not an NKN address"),
        (f"gpu-box.{KEY.upper()}", "is not an NKN address"),
        (f"__0__.gpu-box.{KEY}", f"give gpu-box.{KEY} instead"),
        (f"gpu box.{KEY}", "invalid characters"),
        (f"gpu-box.{KEY[:-1]}0", "is not a valid Ed25519 key"),
        (f"gpu-box.{'0' * 64}", "is not a valid Ed25519 key"),
    ],
)
def test_peer_address_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values.parse_peer_address(text)
    assert says in str(caught.value)


@given(st.binary(min_size=32, max_size=32))
def test_keys_that_libsodium_takes_are_taken(seed: bytes) -> None:
    assert values.parse_peer_address(bytes(SigningKey(seed).verify_key).hex())


@given(st.binary(min_size=32, max_size=32))
def test_keys_that_are_refused_libsodium_refuses_too(data: bytes) -> None:
    try:
        values.parse_peer_address(data.hex())
    except ConfigError:
        assert not crypto_core_ed25519_is_valid_point(data)


@pytest.mark.parametrize(
    "small",
    [
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ed" + "ff" * 30 + "7f",  # zero again, not canonical
    ],
)
def test_keys_of_small_order_are_refused(small: str) -> None:
    for sign in (0, 0x80):
        key = bytes.fromhex(small)
        with pytest.raises(ConfigError, match="is not a valid Ed25519 key"):
            values.parse_peer_address((key[:31] + bytes([key[31] | sign])).hex())


def test_secrets_are_not_repeated_in_errors() -> None:
    secret = "5e" * 31 + "zz"
    for parser in (values.parse_seed, values.parse_key):
        with pytest.raises(ConfigError) as caught:
            parser(secret)
        assert secret[:8] not in str(caught.value)


def test_preshared_key_as_hex_and_as_base64() -> None:
    assert values.parse_key("ab" * 32) == b"\xab" * 32
    assert values.parse_key("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n") == b"\xab" * 32


@pytest.mark.parametrize("name", ["nc0", "gpu-box", "a.b_c", "x" * 15])
def test_interface_name(name: str) -> None:
    assert values.check_interface_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 16, "a b", "a/b", "lo", "all", "-x", "é"])
def test_interface_name_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        values.check_interface_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "http://203.0.113.7:30003",
        "http://[fd00::1]:30003",
        "https://node.example",
        "https://node.example:443#sha256=" + "0f" * 32,
        "https://[fd00::1]:443#sha256=" + "0f" * 32,
    ],
)
def test_seed_rpc(text: str) -> None:
    assert values.parse_seed_rpc(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "203.0.113.7:30003",
        "http://",
        "http://node.example",
        "ftp://x:1",
        "http://x:99999",
        "http://u@x:1",
        "http://x:1/?a",
        "https://x:1#",
        "https://x:1#sha256=",
        "https://x:1#sha256=" + "0f" * 31,
        "https://x:1#sha256=" + "0g" * 32,
        "https://x:1#sha1=" + "0f" * 32,
        "https://x:1#sha256=" + "0f" * 32 + "#",
        "http://x:1#sha256=" + "0f" * 32,
    ],
)
def test_seed_rpc_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write"):
        values.parse_seed_rpc(text)


def test_a_pin_is_written_in_one_way() -> None:
    pin = "#sha256=" + "0f" * 32
    assert (
        values.parse_seed_rpc("https://node.example:443/" + pin.upper()) == "https://node.example:443" + pin
    )


def test_split_commas() -> None:
    assert values.split_commas(["a,b", " c ,", ""]) == ("a", "b", "c")
