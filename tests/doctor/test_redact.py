from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.doctor.facts import NatFact
from nconnect.doctor.redact import REMOVED, addresses_of, redact
from nconnect.model import Endpoint
from nconnect.nat.port_mapping import Router
from nconnect.nat.stun import Verdict
from nconnect.wire.direct import NatVerdict
from tests.doctor.examples import FACTS

SEED, KEY, PUBLIC = bytes(range(32)), bytes(range(100, 132)), bytes(range(200, 232))


@pytest.mark.parametrize(
    "line",
    [
        f'seed = "{SEED.hex()}"',
        f"  seed='{SEED.hex().upper()}'",
        f'preshared_key = "{base64.b64encode(KEY).decode()}"',
        'seed_rpc = ["http://user:hunter2@203.0.113.7:30003"]',
        'proxy = "http://bob:hunter2@10.0.0.1:3128"',
        'proxy = "http://bob:x/hunter2@y@10.0.0.1:3128"',
        'network = { proxy = "socks5://bob:hunter2#1@10.0.0.1:1080" }',
        'proxy = "bob:hunter2 @10.0.0.1:3128"',
        "HTTPS_PROXY=http://bob:a@hunter2@10.0.0.1:3128",
        "token nc1-abcd-efgh-1234-5678-90ab",
        f"log line with {SEED.hex()} in the middle",
        f"log line with {base64.urlsafe_b64encode(KEY).decode()} in the middle",
        f'{{"preshared_key": "{base64.b64encode(KEY).decode()}", "name": "x"}}',
        "GET /x?token=hunter2&y=1",
    ],
)
def test_secrets_go_even_when_nobody_knows_them(line: str) -> None:
    cleaned = redact(line, public=[PUBLIC])
    assert REMOVED in cleaned
    for secret in (SEED.hex(), base64.b64encode(KEY).decode(), "hunter2", "abcd-efgh"):
        assert secret.lower() not in cleaned.lower()


@pytest.mark.parametrize("secret", [SEED, KEY])
def test_a_known_secret_goes_in_every_form(secret: bytes) -> None:
    forms = [
        secret.hex(),
        secret.hex().upper(),
        base64.b64encode(secret).decode(),
        ":".join(f"{b:02x}" for b in secret),
        repr(secret),
    ]
    for form in forms:
        cleaned = redact(f"before {form} after", secrets=[secret])
        assert form.strip("b'") not in cleaned
        assert cleaned.startswith("before ")
        assert cleaned.endswith(" after")


def test_known_words_go_but_for_those_too_short_to_be_told_from_text() -> None:
    cleaned = redact("hunter2 logs in as bob, Ym9iOmh1bnRlcjI=", words=["bob", "hunter2", "Ym9iOmh1bnRlcjI="])
    assert cleaned == f"{REMOVED} logs in as bob, {REMOVED}"


def test_a_proxy_s_place_stays() -> None:
    text = 'proxy = "http://10.0.0.1:3128"'
    assert redact(text) == text
    assert redact('proxy = "http://bob:hunter2@10.0.0.1:3128"') == f'proxy = "http://{REMOVED}@10.0.0.1:3128"'


def test_public_keys_and_ordinary_words_stay() -> None:
    text = f"address laptop.{PUBLIC.hex()} at 203.0.113.7:30002, seeds were asked, drop spoofed_source 3"
    assert redact(text, secrets=[SEED], public=[PUBLIC]) == text
    word = "a_rather_long_identifier_of_a_python_module"
    assert redact(word) == word


V4, V6 = ip_address("203.0.113.9"), ip_address("2001:db8::9")
ROUTER = IPv4Address("192.168.1.1")


@pytest.mark.parametrize(
    ("line", "cleaned"),
    [
        ("seen as 203.0.113.9:41641", f"seen as {REMOVED}:41641"),
        ('{"seen":"203.0.113.9"}.', f'{{"seen":"{REMOVED}"}}.'),
        ("by ::ffff:203.0.113.9.", f"by ::ffff:{REMOVED}."),
        ("[2001:DB8::9]:443 2001:db8::9", f"[{REMOVED}]:443 {REMOVED}"),
        *(
            (line, line)
            for line in ("203.0.113.90", "3.203.0.113.9", "203.0.113.9.1", "2001:db8::9:1", "a:2001:db8::9")
        ),
    ],
)
def test_a_known_address_goes_as_a_whole(line: str, cleaned: str) -> None:
    assert redact(line, addresses=[V4, V6]) == cleaned


def test_whose_addresses_go() -> None:
    """What others see of this device and its peers; nothing that only names a place in a local network."""
    seen = [NatFact(v.version, Verdict(NatVerdict.EASY, Endpoint(v, 9), 0.0), v, ()) for v in (V4, V6)]
    silent = NatFact(4, Verdict(NatVerdict.BLOCKED, None, 0.0), V4, ())
    facts = replace(FACTS, nats=(*seen, silent), router=Router(ROUTER, (), ip_address("198.51.100.7")))
    peers: list[dict[str, object]] = [
        {"name": "a", "direct": {"local": "192.168.1.7:9", "remote": "198.51.100.8:9"}},
        {"name": "b", "direct": {"local": "[fd00::1]:9", "remote": "[2001:db8::8]:9"}},
        {"name": "c", "direct": {"local": None, "remote": None}},
        {"name": "d"},
    ]
    here = {"public": ["198.51.100.9:9", "192.168.1.7:9"], "mapped": ["198.51.100.10:9"]}
    found = addresses_of(facts, {"peers": peers, "direct": here})
    told = {"198.51.100.7", "198.51.100.8", "198.51.100.9", "198.51.100.10", "2001:db8::8"}
    assert {str(a) for a in found} == {str(V4), str(V6)} | told
    inside = replace(facts, nats=(), router=Router(ROUTER, (), ip_address("100.64.0.9")))
    assert addresses_of(inside, {"error": "it does not run"}) == frozenset()


@given(st.binary(min_size=32, max_size=32).filter(lambda s: len(set(s)) > 8), st.text(max_size=40))
def test_no_seed_survives_anywhere(secret: bytes, around: str) -> None:
    encoded = base64.b64encode(secret).decode()
    text = f"{around} {secret.hex()} {around}{encoded} {around}"
    cleaned = redact(text, secrets=[secret])
    assert secret.hex() not in cleaned
    assert encoded not in cleaned
