"""Targets for what people and other programs write: invitations, configuration, listings."""

from __future__ import annotations

import json
from ipaddress import ip_address

from nconnect.config.file import parse_config
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.invite.book import Book
from nconnect.invite.token import Token
from nconnect.invite.welcome import Welcome
from nconnect.io.system import conntrack
from nconnect.io.system.netlink_socket import read_attributes
from nconnect.wire import invite, message
from tests.fuzz import oracles
from tests.fuzz.draw import Draw

Refused = RemoteProtocolError

# --- invitations, configuration ---


def invitations(data: bytes) -> None:
    for frame in (data, b"nc\x01" + data):
        expected = oracles.join_frame(frame)
        try:
            found = invite.decode(frame)
        except Refused:
            assert expected == "refused"
            continue
        if found is None:
            assert expected == "none"
            continue
        kinds = {3: invite.Application, 4: invite.Grant, 5: invite.Refusal}
        assert isinstance(expected, tuple)
        kind, token_id, rest = expected
        assert type(found) is kinds[kind]
        assert found.token_id == token_id
        assert found.encode() == frame
        assert found.encode()[12:] == rest
        wrapped = message.Message.decode(invite.wrap(found, b"12345678"))
        assert invite.unwrap(wrapped.payload) == found
    try:
        invite.unwrap(data)
    except Refused:
        pass
    _welcome(data)


_WELCOME = {
    "name": "laptop", "provider": "gpu-box", "address": ["10.86.0.2/24"], "allowed_ips": ["10.86.0.1/32"],
    "preshared_key": "07" * 32,
}  # fmt: skip


def _welcome(data: bytes) -> None:
    draw = Draw(data)
    made: dict[str, object] = dict(_WELCOME)
    if draw.flag():
        odd = (
            *oracles.ODD,
            ["10.86.0.2"],
            ["10.86.0.2/33"],
            ["127.0.0.1/8"],
            ["::ffff:1.2.3.4/128"],
            "a\nb",
            ["fe80::/10"],
        )
        made[draw.of(sorted(made))] = draw.of(odd)
    for text in (data, json.dumps(made).encode()):
        try:
            found = Welcome.decode(text)
        except Refused:
            assert made != _WELCOME or text is data
            continue
        assert len(found.preshared_key) == 32
        assert found.name.isprintable()
        assert found.provider_name.isprintable()
        assert found.addresses
        assert all("/" in each for each in found.addresses)
        for prefix in found.allowed_ips:
            assert not oracles.is_never_a_source(ip_address(prefix.partition("/")[0])) or prefix.startswith(
                "0."
            )
        assert Welcome.decode(found.encode()) == found


def tokens(data: bytes) -> None:
    """As typed; and with a checksum that holds, whatever is below it."""
    draw = Draw(data)
    good_seed = b"http://a:1"
    choices = (good_seed, good_seed, good_seed, b"http://a:1/", b"http://a", b"", b"\xff")
    seeds = [draw.of(choices) for _ in range(draw.of((0, 1, 2, 8, 9)))]
    identifier = draw.of((b"gpu", b"", b"\xff", draw.piece(20)))
    key = draw.of((bytes.fromhex(oracles.KEY), draw.take(32)))
    after = draw.of((b"", b"", b"x"))
    body = b"".join(
        (
            bytes([len(identifier)]),
            identifier,
            key,
            draw.take(24),
            bytes([len(seeds)]),
            *tuple(bytes([len(seed)]) + seed for seed in seeds),
            after,
        )
    )
    letters = oracles.token_letters(body)
    spoilt = bytearray(letters.encode())
    spoilt[draw.number(2) % len(spoilt)] = ord(draw.of("0123456789abcdefghjkmnpqrstvwxyzu!"))
    bad = after or len(seeds) > 8 or set(seeds) > {good_seed} or identifier == b"\xff"
    sound = not bad and identifier == b"gpu" and key.hex() == oracles.KEY and set(seeds) <= {good_seed}
    made = _token(f"nc1-{letters}")
    assert made is None if bad else made is not None or not sound
    for text in (f"nc1-{spoilt.decode()}", f"nc1-{letters}0", f"nc1-{letters[:-1]}"):
        assert text == f"nc1-{letters}" or _token(text) is None, "a mistyped letter went unnoticed"
    _token(data.decode(errors="replace"))


def _token(text: str) -> Token | None:
    try:
        token = Token.parse(text)
    except ConfigError:
        return None
    assert (len(token.token_id), len(token.secret)) == (8, 16)
    assert len(token.seeds) <= 8
    assert Token.parse(token.encode()) == token
    return token


_GOOD_PUBLIC_OTHER = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")

_INVITATION: dict[str, object] = {
    "id": "01" * 8, "name": "laptop", "made_at": 1.0, "expires_at": 2, "allow": ["10.0.0.1/icmp"],
    "addresses": [], "mac_key": "02" * 32, "preshared": "03" * 32, "device": "", "is_added": False,
    "used_at": None, "revoked_at": None,
}  # fmt: skip


def invitation_books(data: bytes) -> None:
    draw = Draw(data)
    made = dict(_INVITATION)
    if draw.flag():
        made[draw.of(sorted(made))] = draw.of(oracles.ODD)
    if draw.below(8) == 7:
        del made[draw.of(sorted(made))]
    content = {"invitations": draw.of(([made], [made, _INVITATION], {}, None, [None], made))}
    for text in (data, json.dumps(content).encode()):
        try:
            book = Book.of(json.loads(text))
        except (ValueError, RecursionError, ConfigError):
            assert text is data or made != _INVITATION or content["invitations"] not in ([made], [made, made])
            continue
        entries = {entry["id"].lower(): entry for entry in json.loads(text)["invitations"]}
        for each in book:
            entry = entries[each.token_id.hex()]
            assert list(each.addresses) == entry["addresses"]
            assert each.allow is None or list(each.allow) == entry["allow"]
            assert len(each.token_id) == 8
            assert len(each.mac_key) == 32
            assert each.preshared is None or len(each.preshared) == 32
            assert isinstance(each.name, str)
            assert isinstance(each.made_at, float)
            assert each.allow is None or all(isinstance(rule, str) for rule in each.allow)
            each.state(1.5)
        assert list(Book.of(book.to_issued(), book.to_used())) == list(book)


# Lines that are right, and lines that are not; of the latter at most one is in a file that is made.
_LINES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("interface", ('seed = "' + "11" * 32 + '"',), ('seed = "' + "11" * 31 + '"', "seed = 1", 'sead = "x"')),
    ("interface", ("", 'identifier = "gpu"'), ('identifier = "a b"', "identifier = 1")),
    (
        "interface",
        ("address = []", 'address = ["10.86.0.1/24"]', 'address = ["10.86.0.1/24", "fd86::1/64"]'),
        ('address = ["10.86.0.1"]', 'address = ["127.0.0.1/8"]', 'address = ["10.86.0.0/24"]',
         'address = ["::ffff:1.2.3.4/96"]', 'address = ["10.86.0.1/24", "10.86.0.1/16"]'),
    ),
    ("interface", ("", "mtu = 1280", "mtu = 65535"), ("mtu = 575", "mtu = 65536", "mtu = true")),
    ("interface", ("", 'cipher = "aes256gcm"'), ('cipher = "none"', "cipher = 1")),
    ("interface", ("", "inbound = true"), ("inbound = 1", 'inbound = "true"')),
    ("network", ("", "links = 1", "links = 8"), ("links = 0", "links = 9", "links = true", "lynks = 1")),
    (
        "network",
        ("", 'seed_rpc = ["http://a:1"]'),
        ("seed_rpc = []", 'seed_rpc = ["ftp://a:1"]', 'seed_rpc = ["http://a"]', 'seed_rpc = ["http://u@a:1"]',
         'seed_rpc = ["http://a:65536"]', 'seed_rpc = ["http://a:1?x"]'),
    ),
    (
        "provide",
        ("", 'subnets = ["192.168.50.0/24"]', 'subnets = ["192.168.1.0/24=10.99.1.0/24"]'),
        ('subnets = ["192.168.50.1/24"]', 'subnets = ["192.168.1.0/24=10.99.1.0/25"]', 'subnets = ["x"]',
         'subnets = ["192.168.1.0/24=10.99.0.0/24", "192.168.2.0/24=10.99.0.0/24"]'),
    ),
    (
        "provide",
        ("", 'services = ["1/tcp", "65535/udp"]', 'services = ["10-20/tcp"]'),
        ('services = ["0/tcp"]', 'services = ["65536/tcp"]', 'services = ["20-10/tcp"]'),
    ),
    (
        "provide",
        ("", 'expose = ["127.0.0.1:11434"]'),
        ('expose = ["127.0.0.1"]', 'expose = ["127.0.0.1:0"]', 'expose = ["127.0.0.1:1", "127.0.0.2:1"]'),
    ),
    (
        "node",
        ("", 'listen = "0.0.0.0"', 'listen = "::"\nws_port = 1\nrpc_port = 65535'),
        ("ws_port = 30002", 'listen = "a b"', "listen = 1", 'listen = "::"\nws_port = 0',
         'listen = "::"\nws_port = 30003', 'listen = "::"\nrpc_port = 65536'),
    ),
    ("metrics", ("", 'listen = "127.0.0.1:9586"'), ('listen = "127.0.0.1"', 'listen = "127.0.0.1:0"')),
    ("peer", (f'address = "a.{oracles.KEY}"',), ('address = "a"', 'address = "a.' + "00" * 32 + '"')),
    ("peer", ('name = "laptop"',), ('name = ""', 'name = "a b\\n"', "name = 1", 'name = "second"', "")),
    (
        "peer",
        ('allowed_ips = ["10.86.0.2/32"]', 'allowed_ips = ["10.86.0.0/16", "fd86::2/128"]'),
        ("allowed_ips = []", 'allowed_ips = ["10.86.0.2/24"]', 'allowed_ips = ["127.0.0.0/8"]',
         'allowed_ips = ["fe80::1/128"]', 'allowed_ips = ["::ffff:0:0/96"]', 'allowed_ips = ["224.0.0.1/32"]',
         'allowed_ips = ["10.86.0.3/32"]', 'allowed_ips = ["10.1.0.0/16", "10.1.0.0/16"]'),
    ),
    (
        "peer",
        ("", "allow = []", 'allow = ["192.168.50.10:8000/tcp", "[fd50::10]:1-65535", "10.0.0.0/8"]'),
        ('allow = ["192.168.50.10:0"]', 'allow = ["192.168.50.10:65536"]', 'allow = ["192.168.50.10:2-1"]',
         'allow = ["192.168.50.10:1/icmp"]', 'allow = ["192.168.50.10/sctp"]', 'allow = ["127.0.0.1:1/tcp"]'),
    ),
    ("peer", ("", f'preshared_key = "{"07" * 32}"'), (f'preshared_key = "{"07" * 33}"', 'psk = "x"')),
    (
        "peer",
        ("", "expires = 2026-12-31T00:00:00Z", "expires = 2026-12-31"),
        ("expires = 2026-12-31T00:00:00", "expires = 1", 'expires = "never"'),
    ),
)  # fmt: skip
_SECOND = (
    f'[[peer]]\nname = "second"\naddress = "b.{_GOOD_PUBLIC_OTHER.hex()}"\nallowed_ips = ["10.86.0.3/32"]\n'
)


def configurations(data: bytes) -> None:
    try:
        _configuration(data.decode(errors="replace"))
    except ConfigError as error:
        if not error.problems or any("\n" in line for line in error.problems):
            raise AssertionError("not a line for each mistake") from error
    draw = Draw(data)
    faulty, mistake = draw.below(2 * len(_LINES)), draw.number()
    chosen: dict[str, list[str]] = {}
    for number, (section, right, wrong) in enumerate(_LINES):
        line = wrong[mistake % len(wrong)] if number == faulty else draw.of(right)
        if line:
            chosen.setdefault(section, []).append(line)
    text = "".join(
        f"{'[[peer]]' if name == 'peer' else f'[{name}]'}\n" + "\n".join(lines) + "\n"
        for name, lines in chosen.items()
    )
    try:
        _configuration(text + _SECOND)
    except ConfigError:
        assert faulty < len(_LINES), f"refused, and nothing is wrong:\n{text}"
    else:
        assert faulty >= len(_LINES), f"taken, and there is a mistake in it:\n{text}"


def _configuration(text: str) -> None:
    parse_config(
        text, interface="nc0", source="nc0.toml", read_seed_file=lambda _: "11" * 32,
        public_key_of=lambda seed: seed,
    )  # fmt: skip


# --- what other programs and the kernel write ---


def conntrack_messages(data: bytes) -> None:
    """Any bytes; what is read names two addresses of one version."""
    entry = conntrack.parse(memoryview(data))
    if entry is not None:
        assert entry.flow().source.version == entry.flow().destination.version


def netlink_attributes(data: bytes) -> None:
    """All bytes of all attributes, as a loop over the bytes finds them."""
    found = [(kind, bytes(value)) for kind, value in read_attributes(memoryview(data))]
    expected, at = [], 0
    while at + 4 <= len(data):
        size, kind = (
            int.from_bytes(data[at : at + 2], "little"),
            int.from_bytes(data[at + 2 : at + 4], "little"),
        )
        if size < 4 or at + size > len(data):
            break
        expected.append((kind % 0x4000, data[at + 4 : at + size]))
        at += size + -size % 4
    assert found == expected
