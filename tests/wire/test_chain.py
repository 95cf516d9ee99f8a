"""The chain's transactions against the official JavaScript SDK's, and what nodes answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nconnect.crypto.keys import Identity
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.wire import chain
from nconnect.wire.chain import Registrant, Subscription

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "nkn_sdk.json").read_text())
ALICE = Identity(bytes.fromhex(VECTORS["identities"][0]["seed"]))
ME, BARE = NknAddress("me", ALICE.public_key), NknAddress("", ALICE.public_key)
KEY = ALICE.public_key.hex()
# JSON as it can arrive: any value in any place.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([KEY, f"me.{KEY}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(KEY), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = ("subscribers", "subscribersInTxPool", "meta", "expiresAt", "registrant", "nonce", "nonceInTxPool")


def vector(name: str) -> dict[str, Any]:
    (found,) = (each for each in VECTORS["transactions"] if each["name"] == name)
    return dict(found)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("subscribe", chain.subscribe(ME, "topic", 100, "meta")),
        ("long meta", chain.subscribe(ME, "topic", 400_000, "m" * 300)),
        ("unsubscribe", chain.unsubscribe(BARE, "topic")),
    ],
)
def test_a_transaction_is_the_official_one(name: str, payload: chain.ChainPayload) -> None:
    told = vector(name)
    made = chain.transaction(payload, nonce=told["nonce"], public_key=ALICE.public_key, sign=ALICE.sign)
    assert payload.data.hex() == told["payload"]
    assert made.hash == told["hash"]
    # The SDK writes the fee also where it is 0, at the end of the unsigned transaction.
    theirs = bytes.fromhex(told["bytes"])
    program = bytes.fromhex("12670a22" + told["code"] + "1241" + told["parameter"])
    assert theirs.endswith(program)
    assert made.encoded.endswith(program)
    unsigned = made.encoded.removesuffix(program).partition(b"\x08")[2]
    assert theirs.removesuffix(program).partition(b"\x08")[2] == unsigned + b"\x18\x00"


def test_the_wallet_is_the_official_one() -> None:
    assert chain.wallet_address(ALICE.public_key) == VECTORS["wallet"]


@pytest.mark.parametrize(
    ("topic", "duration", "meta", "identifier", "words"),
    [
        ("ab", 1, "", "", "no topic"),
        ("-abc", 1, "", "", "no topic"),
        ("abc\n", 1, "", "", "no topic"),
        ("a" * 256, 1, "", "", "no topic"),
        ("abc", 0, "", "", "1 to 400000 blocks"),
        ("abc", 400_001, "", "", "1 to 400000 blocks"),
        ("abc", 1, "ü" * 513, "", "1024 bytes, not 1026"),
        ("abc", 1, "", "i" * 65, "64 characters"),
    ],
)
def test_what_nodes_refuse_is_refused(
    topic: str, duration: int, meta: str, identifier: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        chain.subscribe(NknAddress(identifier, ALICE.public_key), topic, duration, meta)


def test_the_largest_that_nodes_take_is_made() -> None:
    subscriber = NknAddress("i" * 64, ALICE.public_key)
    assert len(chain.subscribe(subscriber, "a" * 255, 400_000, "ü" * 512).data) < 0x10000


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("gpu.my-name", "my-name"),
        (" gpu.__0__.Name_9+ ", "Name_9+"),
        ("my-name", "my-name"),
        (KEY, None),
        (f"gpu.{KEY}", None),
        (f"gpu.{KEY[1:]}", KEY[1:]),
        ("gpu.short", None),
        ("gpu.-leading", None),
        ("gpu.näme-of", None),
        ("", None),
    ],
)
def test_a_name_is_the_last_part_that_is_no_key(address: str, name: str | None) -> None:
    assert chain.name_in(address) == name


def test_what_the_official_node_answers_is_read() -> None:
    other = f"b.{'ab' * 32}"
    answer = {"subscribers": {f"me.{KEY}": "x", "nobody": "y", KEY: 5}, "subscribersInTxPool": {other: "z"}}
    assert chain.read_subscribers(answer) == {f"me.{KEY}": "x", KEY: "", other: "z"}
    assert chain.read_subscribers({"subscribers": None}) == {}
    assert chain.read_subscription({"meta": "", "expiresAt": 0}) is None
    assert chain.read_subscription({"meta": "m", "expiresAt": 9}) == Subscription("m", 9)
    assert chain.read_registrant({"expiresAt": 0, "registrant": ""}) is None
    assert chain.read_registrant({"expiresAt": 7, "registrant": KEY}) == Registrant(ALICE.public_key, 7)
    assert chain.read_nonce({"currentHeight": 0, "nonce": 3, "nonceInTxPool": 5}) == 5
    assert chain.read_nonce({"nonce": 3}) == 3
    assert chain.read_count(4) == 4


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (chain.read_subscribers, {"subscribers": [KEY]}),
        (chain.read_count, "4"),
        (chain.read_registrant, {"registrant": "ab"}),
        (chain.read_nonce, {}),
        (chain.read_nonce, {"nonce": 1 << 63}),
    ],
)
def test_answers_of_another_form_are_refused(read: Any, answer: object) -> None:
    with pytest.raises(RemoteProtocolError):
        read(answer)


@given(JSON | st.dictionaries(st.sampled_from(MEMBERS), JSON))
@example({"subscribers": {"\ud800": "x"}})
def test_any_answer_is_read_or_refused(answer: object) -> None:
    for read in (
        chain.read_subscribers, chain.read_count, chain.read_subscription, chain.read_registrant,
        chain.read_nonce,
    ):  # fmt: skip
        try:
            read(answer)
        except RemoteProtocolError:
            pass
