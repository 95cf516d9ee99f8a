from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nconnect.config.file import parse_config
from nconnect.errors import ConfigError
from nconnect.model import (
    PUBLIC_SEED_RPC,
    AllowRule,
    Config,
    Exposed,
    MetricsConfig,
    NetworkConfig,
    NodeConfig,
    ProvideConfig,
    ProvidedSubnet,
    Quota,
    Service,
)

SEED = "11" * 32
OWN_KEY = bytes(SigningKey(bytes.fromhex(SEED)).verify_key).hex()
KEYS = [bytes(SigningKey(bytes([n]) * 32).verify_key).hex() for n in range(2, 6)]

MINIMAL = f"""\
[interface]
seed = "{SEED}"
address = ["10.86.0.1/24"]
"""
FULL = f"""\
[interface]
seed = "{SEED}"
identifier = "gpu-box"
address = ["10.86.0.1/24", "fd86::1/64"]
mtu = 1400
cipher = "aes256gcm"
inbound = true
fail_closed = true
accept_pending = true

[network]
seed_rpc = ["http://203.0.113.7:30003"]
links = 4
stun = ["stun.example:3478", "[2001:db8::1]:3478"]
direct = "no-host"
direct_port = 41641
port_mapping = false

[node]
listen = "0.0.0.0"
ws_port = 40002
rpc_port = 40003
advertise = "node.example"
verify_signatures = true
connections_per_address = 200
queue_mb = 48
mail_mb = 0
stun_ports = [3478, 3479]

[provide]
subnets = ["192.168.50.0/24", "192.168.1.0/24=10.99.1.0/24"]
services = ["8000/tcp"]
expose = ["127.0.0.1:11434"]
masquerade = false
mtu = 1400

[metrics]
listen = "127.0.0.1:9586"

[[peer]]
name = "laptop"
address = "laptop.{KEYS[0]}"
allowed_ips = ["10.86.0.2/32"]
allow = ["192.168.50.10:8000/tcp"]
preshared_key = "{"ab" * 32}"
expires = 2026-12-31T00:00:00Z
max_flows = 20000
direct = "off"
rate = "50M"
quota = "100G/month"
paused = "back at 22:00"

[[peer]]
name = "phone"
address = "{KEYS[1]}"
allowed_ips = ["10.86.0.3/32", "fd86::3/128"]
allow = []
"""


def problems(text: str, interface: str = "nc0") -> list[str]:
    """The lines of the error, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse_config(
            text, interface=interface, source="F", public_key_of=lambda s: bytes(SigningKey(s).verify_key)
        )
    for line in caught.value.problems:
        assert line.startswith("F:")
        assert "\n" not in line
    return [line.removeprefix("F:") for line in caught.value.problems]


def refusal(text: str) -> tuple[str, ...] | None:
    """The error's lines; None when the text is a configuration."""
    try:
        parse_config(text, interface="nc0")
    except ConfigError as error:
        return error.problems
    return None


def peer(name: str, key: str, *allowed: str, **more: str) -> str:
    lines = [
        f'name = "{name}"',
        f'address = "{name}.{key}"',
        f"allowed_ips = {list(allowed)}".replace("'", '"'),
    ]
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "\n[[peer]]\n" + "\n".join(lines) + "\n"


def test_defaults() -> None:
    config = parse_config(MINIMAL, interface="nc0")
    assert config == Config("nc0", bytes.fromhex(SEED), "", (ip_interface("10.86.0.1/24"),))
    assert config.network.seed_rpc == PUBLIC_SEED_RPC
    assert config.node is None
    assert config.peers == ()


WITHOUT_ADDRESS = MINIMAL.replace('address = ["10.86.0.1/24"]\n', "")


def test_a_provider_brings_an_address_and_a_network_that_others_may_have_too() -> None:
    local = {"local_address": '["10.86.0.2/24"]'}
    text = WITHOUT_ADDRESS + peer("a", KEYS[0], "10.86.0.1", "192.168.1.0/24", **local)
    text += peer("b", KEYS[1], "10.86.0.1", "192.168.1.0/24", **local, accept_routes='["10.0.0.0/8"]')
    config = parse_config(text, interface="nc0")
    assert config.address == ()
    assert [each.local_address for each in config.peers] == [(ip_interface("10.86.0.2/24"),)] * 2
    assert config.peers[0].accept_routes is None
    assert config.peers[1].accept_routes == (ip_network("10.0.0.0/8"),)
    small = text.replace("seed =", "mtu = 1279\nseed =", 1).replace("10.86.0.2/24", "fd86::2/64", 1)
    with pytest.raises(ConfigError, match="mtu: must be at least 1280"):
        parse_config(small, interface="nc0")
    # After the last provider has left.
    assert parse_config(WITHOUT_ADDRESS + "address = []\n", interface="nc0").address == ()


def test_a_node_on_one_port() -> None:
    node = parse_config(MINIMAL + "[node]\nlisten = '::'\nport = 443\ntls = true", interface="nc0").node
    assert node is not None
    assert (node.ports(), node.has_tls, node.tls_cert) == ({"port": 443}, True, None)
    text = MINIMAL + "[node]\nlisten = '::'\nport = 443\nrpc_port = 30003\ntls_cert = '/c'\ntls_key = '/k'"
    node = parse_config(text, interface="nc0").node
    assert node is not None
    assert node.ports() == {"port": 443, "rpc_port": 30003}
    assert (node.has_tls, node.tls_cert, node.tls_key) == (True, Path("/c"), Path("/k"))


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        ("", None),  # the official ones, where they are free
        ("stun_ports = 0", ()),
        ("stun_ports = []", ()),
        ("stun_ports = [443, 444]", (443, 444)),
        ("port = 443", ()),
        ("ws_port = 40002", ()),
        ("port = 443\nstun_ports = [30006, 30007]", (30006, 30007)),
    ],
)
def test_stun_ports(lines: str, ports: tuple[int, ...] | None) -> None:
    node = parse_config(f"{MINIMAL}[node]\nlisten = '::'\n{lines}\n", interface="nc0").node
    assert node is not None
    assert node.stun_ports == ports


def test_everything() -> None:
    config = parse_config(FULL, interface="gpu")
    assert (config.interface, config.identifier, config.mtu, config.cipher) == (
        "gpu",
        "gpu-box",
        1400,
        "aes256gcm",
    )
    assert config.inbound
    assert config.fail_closed
    assert config.accept_pending
    assert config.network == NetworkConfig(
        ("http://203.0.113.7:30003",),
        4,
        stun=(("stun.example", 3478), ("2001:db8::1", 3478)),
        direct="no-host",
        direct_port=41641,
        port_mapping=False,
    )
    assert config.node == NodeConfig(
        *("0.0.0.0", 40002, 40003, "node.example", True),
        connections_per_address=200, queue_mb=48, mail_mb=0, stun_ports=(3478, 3479),
    )  # fmt: skip
    lan = ip_network("192.168.50.0/24")
    assert config.provide == ProvideConfig(
        (ProvidedSubnet(lan, lan), ProvidedSubnet(ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24"))),
        (Service((8000, 8000), "tcp"),),
        (Exposed("127.0.0.1", 11434),),
        False,
        1400,
    )
    assert config.metrics == MetricsConfig("127.0.0.1", 9586)
    laptop, phone = config.peers
    assert laptop.allow == (AllowRule(ip_network("192.168.50.10/32"), (8000, 8000), "tcp"),)
    assert laptop.preshared_key == b"\xab" * 32
    assert laptop.expires_at == 1_798_675_200.0
    assert laptop.max_flows == 20_000
    assert phone.max_flows is None
    assert (laptop.direct, phone.direct) == ("off", None)
    assert (laptop.rate, laptop.paused) == (50_000_000, "back at 22:00")
    assert laptop.quota == Quota(100 * 10**9, "month")
    assert (phone.rate, phone.quota, phone.paused) == (None, None, None)
    assert phone.allow == ()  # nothing, which is not None: everything
    assert phone.preshared_key is None
    assert phone.expires_at is None


def test_secrets_are_not_shown() -> None:
    shown = repr(parse_config(FULL, interface="nc0"))
    assert "ab" * 32 not in shown
    assert repr(b"\x11" * 32) not in shown


def test_all_mistakes_at_once_each_with_its_line() -> None:
    text = f"""\
[interface]
seed = "00"
adress = ["10.86.0.1/24"]
mtu = 99
inbound = "yes"

[network]
links = 20

[provide]
subnets = [
  "192.168.50.0/24",
  "192.168.51.3/24",
]
services = ["8000"]

[[peer]]
name = "a"
address = "a.aa"
allowed_ips = ["10.86.0.2/32"]
[[peer]]
name = "b"
address = "b.{KEYS[0]}"
allowed_ips = ["10.86.0.3/32"]
allow = ["192.168.50.11:9-3/tcp"]
"""
    found = problems(text)
    assert [line.split(": ", 2)[0] + ": " + line.split(": ", 2)[1] for line in found] == [
        "1: [interface] address",
        "2: [interface] seed",
        "3: [interface] adress",
        "4: [interface] mtu",
        "5: [interface] inbound",
        "8: [network] links",
        "13: [provide] subnets",
        "15: [provide] services",
        "19: [peer a] address",
        "25: [peer b] allow",
    ]
    assert "did you mean address?" in found[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: there is no [interface] section: make a file with `nconnect init`"),
        ("interface = 3", "1: interface: must be a section in brackets, not a number"),
        ("[interface", "1: not TOML"),
        (MINIMAL + "\nx = = 1", "5: not TOML"),
        (MINIMAL + 'seed = "22"', "4: not TOML"),
        (MINIMAL + "mtu = '1500'", "4: [interface] mtu: must be a number"),
        (MINIMAL + "mtu = true", "4: [interface] mtu: must be a number"),
        (MINIMAL + "mtu = 65536", "4: [interface] mtu: 65536 is out of range"),
        (MINIMAL.replace('"]', '", "fd86::1/64"]') + "mtu = 1279", "from 1280 to 65535"),
        (MINIMAL + "cipher = 'AES-256-GCM'", "did you mean 'aes256gcm'?"),
        (MINIMAL + "cipher = 'rot13'", "write one of 'auto'"),
        (MINIMAL + "identifier = 'a b'", "4: [interface] identifier: 'a b' cannot be an identifier"),
        (MINIMAL + "identifier = '__0__'", "the network reserves"),
        (MINIMAL + "seed_file = 'x'", "4: [interface] seed_file: given besides seed"),
        (MINIMAL.replace(f'seed = "{SEED}"', ""), "[interface] seed: missing"),
        (
            MINIMAL.replace('["10.86.0.1/24"]', '"10.86.0.1/24"'),
            '3: [interface] address: must be a list: write ["10.',
        ),
        (MINIMAL.replace('address = ["10.86.0.1/24"]', ""), "[interface] address: missing"),
        (MINIMAL.replace('"]', '", "10.86.0.1/16"]'), "10.86.0.1 is there twice"),
        (MINIMAL + "[netwrok]\nlinks = 1", "4: netwrok: unknown, did you mean network?"),
        (MINIMAL + "[network]\nlinks = 0", "5: [network] links: 0 is out of range"),
        (MINIMAL + "[network]\nlinks = 9", "write a number from 1 to 8"),
        (MINIMAL + "[network]\nseed_rpc = []", "is empty"),
        (MINIMAL + "[network]\nseed_rpc = ['203.0.113.7']", "write http://HOST:30003"),
        (MINIMAL + '[network]\nstun = ["stun.example"]', "[network] stun: 'stun.example' is not HOST:PORT"),
        (MINIMAL + '[network]\nstun = ["2001:db8::1:3478"]', "is not HOST:PORT: write one such as"),
        (MINIMAL + '[network]\nstun = ["[::1]"]', "is not HOST:PORT: write one such as"),
        (MINIMAL + '[network]\nstun = ["stun.example:0"]', "'0' is not a port"),
        (MINIMAL + '[network]\nstun = ["a b:3478"]', "'a b' is not a host"),
        (MINIMAL + "[network]\nstun = 'a:1'", "[network] stun: must be a list"),
        (MINIMAL + "[node]\n", "4: [node] listen: missing"),
        (MINIMAL + "[node]\nlisten = '0.0.0.0:30002'", "without port"),
        (MINIMAL + "[node]\nlisten = '::'\nws_port = 30003", "the same as ws_port"),
        (MINIMAL + "[node]\nlisten = '::'\nport = 443\nws_port = 443", "the same as port"),
        (MINIMAL + "[node]\nlisten = '::'\nport = 0", "[node] port: 0 is out of range"),
        (MINIMAL + "[node]\nlisten = '::'\nstun_ports = 7", "[node] stun_ports: must be two different"),
        (MINIMAL + "[node]\nlisten = '::'\nstun_ports = [7]", "[node] stun_ports: must be two different"),
        (MINIMAL + "[node]\nlisten = '::'\nstun_ports = [7, 7]", "[node] stun_ports: must be two different"),
        (MINIMAL + "[node]\nlisten = '::'\nstun_ports = [7, 0]", "[node] stun_ports: must be two different"),
        (MINIMAL + "[node]\nlisten = '::'\nstun_ports = [7, true]", "[node] stun_ports: must be two"),
        (MINIMAL + "[node]\nlisten = '::'\nstun_ports = false", "[node] stun_ports: must be two different"),
        (MINIMAL + "[node]\nlisten = '::'\ntls_key = '/k'", "without tls_cert: give the certificate too"),
        (MINIMAL + "[node]\nlisten = '::'\ntls_cert = 'k'", "not an absolute path"),
        (MINIMAL + "[node]\nlisten = '::'\nwss_port = 443", "wss_port: without TLS"),
        (MINIMAL + "[provide]\nsubnets = ['192.168.1.0/24', '192.168.1.0/24']", "is there twice"),
        (
            MINIMAL + "[provide]\nsubnets = ['192.168.1.0/24', '192.168.2.0/24=192.168.1.0/24']",
            "is there twice",
        ),
        (MINIMAL + "[provide]\nsubnets = ['192.168.0.0/16', '10.9.1.0/24=192.168.1.0/24']", "overlaps"),
        (MINIMAL + "[provide]\nexpose = ['127.0.0.1:80', '[::1]:80']", "port 80 is there twice"),
        (MINIMAL + "[provide]\nmtu = 100", "5: [provide] mtu: 100 is out of range"),
        (MINIMAL + "[metrics]", "4: [metrics] listen: missing"),
        (MINIMAL + "[metrics]\nlisten = '9586'", "is not ADDRESS:PORT"),
        (MINIMAL + "[peer]\nname = 'x'", "must be written [[peer]], with two brackets"),
        (MINIMAL + "[[peer]]\n", "4: [peer 1] name: missing"),
        (MINIMAL + peer("a", KEYS[0]), "[peer a] allowed_ips: missing"),
        (
            MINIMAL + peer("a", KEYS[0], "10.86.0.2/24"),
            "8: [peer a] allowed_ips: '10.86.0.2/24' has host bits set",
        ),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.1"), "is this interface's own address"),
        (MINIMAL + peer("a", OWN_KEY, "10.86.0.2"), "7: [peer a] address: is this device's own address"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", expires='"2026-12-31"'), "time without quotes"),
        (
            MINIMAL + peer("a", KEYS[0], "10.86.0.2", expires="2026-12-31T00:00:00"),
            "write 2026-12-31T00:00:00Z",
        ),
        (MINIMAL + "[network]\ndirect = true\n", "direct: must be a text in quotes, not a boolean"),
        (
            MINIMAL + '[network]\ndirect = "yes"\n',
            "direct: 'yes' is unknown: write one of on, no-host, off",
        ),
        (
            MINIMAL + "[network]\ndirect_port = 1023\n",
            "1023 is out of range: write a number from 1024 to 65535",
        ),
        (MINIMAL + "[network]\ndirect_port = 65536\n", "65536 is out of range"),
        (MINIMAL + '[network]\ndirect_port = "any"\n', "direct_port: must be a number from 1024 to 65535"),
        (MINIMAL + '[network]\nport_mapping = "on"\n', "port_mapping: must be true or false"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", direct='"never"'), "[peer a] direct: 'never' is unknown"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", max_flows="0"), "max_flows"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", rate='"fast"'), "rate: 'fast' is not a rate: write bits"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", rate="5000000"), "rate: must be a text in quotes"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", quota='"100G"'), "quota: '100G' is not a quota: write"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", paused="true"), "paused: must be a text in quotes"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", paused='"a\\nb"'), "paused: must be one line of at most"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", max_flows='"many"'), "max_flows"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", preshared_key='"abc"'), "must be 32 bytes"),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", allow='"all"'), 'must be a list: write ["all"]'),
        (MINIMAL + peer("a", KEYS[0], "10.86.0.2", alow="[]"), "unknown, did you mean allow?"),
        (
            MINIMAL + peer("a", KEYS[0], "10.86.0.2") + peer("a", KEYS[1], "10.86.0.3"),
            "11: [peer a] name: there is another peer 'a'",
        ),
        (
            MINIMAL + peer("a", KEYS[0], "10.86.0.2") + peer("b", KEYS[0], "10.86.0.3"),
            "12: [peer b] address: has the same key as peer 'a'",
        ),
        (
            MINIMAL + peer("a", KEYS[0], "10.86.0.2") + peer("b", KEYS[1], "10.86.0.2/32"),
            "13: [peer b] allowed_ips: 10.86.0.2/32 also belongs to peer 'a'",
        ),
    ],
)
def test_mistakes(text: str, expected: str) -> None:
    assert any(expected in line for line in problems(text)), problems(text)


def test_interface_name_is_checked() -> None:
    assert any("16 characters" in line for line in problems(MINIMAL, interface="x" * 16))


def test_the_same_prefix_is_no_mistake_when_one_is_longer() -> None:
    text = MINIMAL + peer("a", KEYS[0], "10.86.0.0/24") + peer("b", KEYS[1], "10.86.0.2/32")
    assert len(parse_config(text, interface="nc0").peers) == 2


def test_seed_file_is_read_by_the_reader_that_is_given() -> None:
    text = MINIMAL.replace(f'seed = "{SEED}"', 'seed_file = "seed"')
    files = {"seed": SEED + "\n"}
    assert parse_config(text, interface="nc0", read_seed_file=files.__getitem__).seed == bytes.fromhex(SEED)
    with pytest.raises(ConfigError, match="cannot be read here"):
        parse_config(text, interface="nc0")
    with pytest.raises(ConfigError, match=r":2: \[interface\] seed_file: seed: must be 64 hex digits"):
        parse_config(text, interface="nc0", read_seed_file=lambda name: "nothing good")


def test_a_file_for_each_interface_is_named_in_errors() -> None:
    with pytest.raises(ConfigError, match=r"^gpu\.toml:1: "):
        parse_config("", interface="gpu")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a" + ".a" * 5000 + " = 1"])
def test_what_the_toml_reader_cannot_digest(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, interface="nc0")


@given(st.text())
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    assert refusal(text) != ()


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.datetimes()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "listen"]), inner, max_size=2)
    ),
    max_leaves=5,
)
LINES = FULL.splitlines()


@given(st.data())
def test_any_value_anywhere_is_a_config_or_a_config_error(data: st.DataObject) -> None:
    import tomlkit

    index = data.draw(st.sampled_from([i for i, line in enumerate(LINES) if " = " in line]))
    value = tomlkit.item(data.draw(VALUES)).as_string()
    key = LINES[index].partition(" = ")[0]
    text = "\n".join([*LINES[:index], f"{key} = {value}", *LINES[index + 1 :]])
    assert all("\n" not in line for line in refusal(text) or ())


@given(st.sets(st.integers(0, len(LINES) - 1)))
def test_any_lines_missing_is_a_config_or_a_config_error(missing: set[int]) -> None:
    text = "\n".join(line for i, line in enumerate(LINES) if i not in missing)
    assert all(line.split(":")[1].isdecimal() for line in refusal(text) or ())
