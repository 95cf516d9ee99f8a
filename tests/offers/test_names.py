"""Names of peers and of what they offer: which there are, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from nconnect.model import Config, MappedPrefix, NknAddress, PeerConfig
from nconnect.offers.name_codec import (
    MAX_BYTES,
    MAX_LINES,
    MAX_PROVIDERS,
    RESERVED,
    Names,
    decode,
    domains,
    encode,
)
from nconnect.offers.names import (
    MAX_OF_PROVIDER,
    PeerNames,
    Provider,
    host_of,
    label,
    labels,
    names,
    of_peers,
    seen,
    url_here,
)
from nconnect.offers.statement import OfferedServer, Statement


def prefix(real: str, mapped: str | None = None) -> MappedPrefix:
    return MappedPrefix(ip_network(real), ip_network(mapped or real))


def provider(
    name: str = "gpu-box",
    *,
    hosts: Any = (),
    servers: Any = (),
    prefixes: Any = (),
    addresses: Any = ("10.86.0.1", "fd86::1"),
) -> Provider:
    """A peer with 192.168.50.0/24 behind it."""
    return Provider(
        name,
        tuple(prefixes or (prefix("10.86.0.1/32"), prefix("fd86::1/128"), prefix("192.168.50.0/24"))),
        tuple(map(ip_address, addresses)),
        tuple((host, ip_address(address)) for host, address in hosts),
        tuple(servers),
    )


def of(*providers: Provider, taken: frozenset[str] = frozenset()) -> PeerNames:
    return names(providers, labels([each.name for each in providers], taken))


def texts(named: PeerNames) -> Mapping[str, list[str]]:
    return {name: [str(a) for a in addresses] for name, addresses in named.addresses.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpu-box", "gpu-box"),
        ("GPU_box.lan", "gpu-box-lan"),
        ("a__b..c", "a-b-c"),
        ("xn--mnchen-3ya", "xn-mnchen-3ya"),
        ("box-", "box"),
        ("7", "7"),
        ("x" * 63, "x" * 63),
        ("x" * 64, ""),
        ("x" * 300, ""),
        ("", ""),
        ("-._", ""),
        ("a b", ""),
        ("\x1b[31mred", ""),
        ("ollama\n127.0.0.1 bank", ""),
        ("münchen", ""),
        ("ₐ", ""),
        ("K", "k"),  # the Kelvin sign, which is k in lower case
    ],
)
def test_a_label_is_one_label_of_dns_or_nothing(name: str, expected: str) -> None:
    assert label(name) == expected


def test_labels_are_unique_and_a_new_peer_changes_no_other_one() -> None:
    table = ["gpu_box", "GPU-box", "gpu.box", "attic"]
    assert labels(table) == {
        "gpu_box": "gpu-box",
        "GPU-box": "gpu-box-2",
        "gpu.box": "gpu-box-3",
        "attic": "attic",
    }
    assert {**labels(table), "gpu-box-2": "gpu-box-2-2"} == labels([*table, "gpu-box-2"])
    long = "x" * 63
    assert labels([long, long.upper()]) == {long: long, long.upper(): "x" * 61 + "-2"}


def test_names_of_other_systems_and_those_that_resolve_already_are_never_taken() -> None:
    assert labels(sorted(RESERVED)) == {name: f"{name}-2" for name in RESERVED}
    assert {"google", "docker", "containers", "kubernetes", "ec2", "compute", "localhost"} < RESERVED
    assert labels(["corp", "attic"], {"corp", "corp-2"}) == {"corp": "corp-3", "attic": "attic"}


def test_a_peer_its_hosts_and_its_servers_have_names() -> None:
    named = of(
        provider(
            hosts=[("NAS", "192.168.50.20")],
            servers=[
                ("ollama", "http://10.86.0.1:11434"),
                ("vllm", "https://192.168.50.10/v1"),
                ("six", "http://[fd86::1]:8000/"),
            ],
        )
    )
    assert texts(named) == {
        "gpu-box.internal": ["10.86.0.1", "fd86::1"],
        "ollama.gpu-box.internal": ["10.86.0.1"],
        "vllm.gpu-box.internal": ["192.168.50.10"],
        "six.gpu-box.internal": ["fd86::1"],
        "nas.gpu-box.internal": ["192.168.50.20"],
    }
    assert named.dropped == {}
    assert domains(named.addresses) == ("gpu-box.internal",)


def test_addresses_are_those_that_this_device_sees() -> None:
    mapped = [prefix("10.86.0.1/32", "10.99.7.1/32"), prefix("192.168.50.0/24", "10.99.8.0/24")]
    named = of(
        provider(
            prefixes=mapped,
            servers=[("vllm", "http://192.168.50.10:8000")],
            addresses=["10.99.7.1", "10.86.0.1"],
        )
    )
    assert texts(named) == {"gpu-box.internal": ["10.99.7.1"], "vllm.gpu-box.internal": ["10.99.8.10"]}
    inner = (*mapped, prefix("192.168.50.64/26", "10.99.9.0/26"))
    assert seen(ip_address("192.168.50.65"), inner) == ip_address("10.99.9.1")
    assert seen(ip_address("192.168.51.1"), inner) is None
    assert seen(ip_address("fd86::1"), inner) is None


@pytest.mark.parametrize(
    "server",
    [
        ("bank", "http://93.184.216.34"),
        ("router", "http://192.168.1.1"),
        ("metadata", "http://169.254.169.254/latest"),
        ("own", "http://127.0.0.1:631"),
        ("name", "http://metadata.google.internal"),
        ("other", "ftp://192.168.50.10"),
        ("file", "file:///etc/passwd"),
        ("user", "http://admin:x@192.168.50.10"),
        ("port", "http://192.168.50.10:99999"),
        ("open", "http://[fd86::1"),
        ("nothing", ""),
        ("localhost", "http://192.168.50.10"),
        ("a" * 300, "http://192.168.50.10"),
        ("esc\x1b[2J", "http://192.168.50.10"),
        ("a/b", "http://192.168.50.10"),
    ],
)
def test_what_lies_outside_of_the_peer_s_prefixes_or_is_malformed_is_dropped_and_counted(
    server: tuple[str, str],
) -> None:
    named = of(provider(servers=[server, ("good", "http://192.168.50.10")]))
    assert set(named.addresses) == {"gpu-box.internal", "good.gpu-box.internal"}
    assert named.dropped == {"gpu-box": 1}


def test_a_peer_whose_own_address_is_not_in_force_has_no_name_of_its_own() -> None:
    other = provider(prefixes=[prefix("192.168.50.0/24")], servers=[("vllm", "http://192.168.50.10")])
    assert texts(of(other)) == {"vllm.gpu-box.internal": ["192.168.50.10"]}
    wide = provider(
        prefixes=[prefix("0.0.0.0/0")], servers=[("own", "http://127.0.0.1"), ("n", "http://0.0.0.1")]
    )
    assert texts(of(wide)) == {"gpu-box.internal": ["10.86.0.1"]}


def test_peers_of_a_configuration_in_force() -> None:
    mapped = (prefix("10.86.0.0/24", "10.99.7.0/24"), prefix("192.168.50.0/24", "10.99.8.0/24"))
    allowed = tuple(map(ip_network, ("10.99.7.1/32", "10.99.8.0/24", "172.16.5.0/24", "172.16.6.1/32")))
    peer = PeerConfig("gpu", NknAddress("gpu", bytes(32)), allowed, mapped=mapped)
    addresses = (ip_interface("10.7.0.2/24"), ip_interface("10.99.7.9/24"))
    config = Config("nc0", bytes(32), "laptop", addresses, peers=(peer,))
    (found,) = of_peers(config)
    assert found.addresses == (ip_address("10.99.7.1"),)
    assert seen(ip_address("10.86.0.1"), found.prefixes) == ip_address("10.99.7.1")
    assert seen(ip_address("192.168.50.7"), found.prefixes) == ip_address("10.99.8.7")
    assert seen(ip_address("172.16.5.7"), found.prefixes) == ip_address("172.16.5.7")
    assert seen(ip_address("10.86.0.77"), found.prefixes) is None, "another device of its tunnel's network"
    assert seen(ip_address("10.99.8.7"), found.prefixes) is None, "an address that the peer does not know"


def test_what_a_peer_tells_is_beneath_its_name() -> None:
    allowed = tuple(map(ip_network, ("10.86.0.1/32", "192.168.50.0/24")))
    peer = PeerConfig("gpu", NknAddress("gpu", bytes(32)), allowed)
    config = Config("nc0", bytes(32), "laptop", (ip_interface("10.86.0.2/24"),), peers=(peer,))
    told = Statement(
        hosts=(("nas", ip_address("192.168.50.20")), ("bank", ip_address("93.184.216.34"))),
        servers=(OfferedServer("ollama", "http://10.86.0.1:11434", names=("llm",)),),
    )
    named = of(*of_peers(config, {str(peer.address): told, "another.00": told}))
    assert texts(named) == {
        "gpu.internal": ["10.86.0.1"],
        "ollama.gpu.internal": ["10.86.0.1"],
        "llm.gpu.internal": ["10.86.0.1"],
        "nas.gpu.internal": ["192.168.50.20"],
    }
    assert named.dropped == {"gpu": 1}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://10.86.0.1:11434/v1", "http://ollama.gpu-box.internal:11434/v1"),
        ("https://192.168.50.10", "https://10.99.8.10"),
        ("http://[fd86::1]:80/", "http://[fd86::1]:80/"),
        ("http://10.9.9.9", ""),
        ("http://bank.example.com", ""),
        ("javascript:alert(1)", ""),
    ],
)
def test_the_url_of_a_server_as_this_device_reaches_it(url: str, expected: str) -> None:
    mapped = [prefix("10.86.0.1/32"), prefix("fd86::1/128"), prefix("192.168.50.0/24", "10.99.8.0/24")]
    known: Names = {"ollama.gpu-box.internal": (ip_address("10.86.0.1"),)}
    assert url_here(provider(prefixes=mapped), "ollama", url, "gpu-box", known) == expected


def test_two_of_one_name_are_one_and_the_first_counts() -> None:
    hosts = [("a_b", "192.168.50.1"), ("a.b", "192.168.50.2"), ("A-B", "192.168.50.1")]
    named = of(provider(hosts=hosts))
    assert texts(named)["a-b.gpu-box.internal"] == ["192.168.50.1"]
    assert named.dropped == {"gpu-box": 1}


def test_one_peer_names_nothing_beneath_another() -> None:
    named = of(provider("attic", servers=[("ollama.gpu-box", "http://192.168.50.10")]), provider())
    assert set(named.addresses) == {"attic.internal", "gpu-box.internal", "ollama-gpu-box.attic.internal"}


def test_numbers_are_bounded_and_the_rest_is_counted() -> None:
    many = [(f"h{n}", "192.168.50.1") for n in range(MAX_OF_PROVIDER + 10)]
    named = of(provider(hosts=many))
    assert len(named.addresses) == MAX_OF_PROVIDER + 1
    assert named.dropped == {"gpu-box": 10}
    crowd = [provider(f"p{n}", hosts=many[:3]) for n in range(MAX_PROVIDERS + 5)]
    named = of(*crowd)
    assert sum(map(len, named.addresses.values())) <= MAX_LINES
    assert sum(named.dropped.values()) == len(crowd) * 4 - len(named.addresses)
    decode(encode(named.addresses))


def test_peers_that_tell_many_names_take_no_other_peers_own() -> None:
    many = [(f"h{n}", "192.168.50.1") for n in range(MAX_OF_PROVIDER)]
    named = of(*(provider(f"guest{n}", hosts=many) for n in range(10)), provider("last"))
    assert "last.internal" in named.addresses
    assert "last" not in named.dropped
    assert sum(map(len, named.addresses.values())) == MAX_LINES


def test_what_is_encoded_is_decoded() -> None:
    named = of(provider(hosts=[("nas", "192.168.50.20")]), provider("b"))
    assert decode(encode(named.addresses)) == named.addresses
    assert decode(b"") == {}


def test_the_largest_list_fits() -> None:
    name = f"{'a' * 63}.{'b' * 63}.internal"
    assert len(encode({name: (ip_address(f"{'abcd:' * 7}abcd"),)})) * MAX_LINES <= MAX_BYTES


@pytest.mark.parametrize(
    "line",
    [
        b"10.86.0.1 example.com",
        b"10.86.0.1 internal",
        b"10.86.0.1 google.internal",
        b"10.86.0.1 metadata.google.internal",
        b"10.86.0.1 host.docker.internal",
        b"10.86.0.1 a.b.c.internal",
        b"10.86.0.1 a.internal.",
        b"10.86.0.1 a.internal b.internal",
        b"10.86.0.1 a.internal\r",
        b"10.86.0.1 a.internal # x",
        b"10.86.0.1 A.internal",
        b"10.86.0.1 -a.internal",
        b"10.86.0.1 a_b.internal",
        b"10.86.0.1 .internal",
        b"10.86.0.1\ta.internal",
        b"10.86.0.1",
        b"",
        b" a.internal",
        b"127.0.0.1 a.internal",
        b"::1 a.internal",
        b"0.0.0.0 a.internal",
        b"255.255.255.255 a.internal",
        b"224.0.0.1 a.internal",
        b"169.254.169.254 a.internal",
        b"fe80::1 a.internal",
        b"fd86::1%eth0 a.internal",
        b"::ffff:10.86.0.1 a.internal",
        b"FD86::1 a.internal",
        b"10.86.1 a.internal",
        b"010.86.0.1 a.internal",
        b"10.86.0.1 %s.internal" % (b"a" * 64),
        b"10.86.0.1 \xc3\xbc.internal",
        b"# nconnect nc0 end",
    ],
)
def test_root_refuses_all_but_names_beneath_internal_with_an_address(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some are the standard library's
        decode(b"10.86.0.1 good.internal\n" + line + b"\n")


def test_root_refuses_too_much() -> None:
    with pytest.raises(ValueError, match="too many"):
        decode(b"10.86.0.1 a.internal\n" * (MAX_LINES + 1))
    with pytest.raises(ValueError, match="too many"):
        decode(b"".join(b"10.86.0.1 a%d.internal\n" % n for n in range(MAX_PROVIDERS + 1)))
    with pytest.raises(ValueError, match="too many"):
        decode(b"1" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="whole"):
        decode(b"10.86.0.1 a.internal\n10.86.0.1 b.internal")


def test_the_host_of_a_url() -> None:
    assert host_of("HTTP://192.168.50.10:8000/v1?x#y") == ip_address("192.168.50.10")
    assert host_of("http://2130706433/") is None  # an integer is no address here
