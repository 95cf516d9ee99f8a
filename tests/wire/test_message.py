"""What clients say to each other, against the protobuf library and the official JavaScript SDK.

That any bytes mean to us what they mean to the library stands in test_nkn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nconnect.errors import RemoteProtocolError
from nconnect.wire.message import Message, Payload, PayloadType, TextData
from tests.wire import nkn_proto

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "nkn_sdk.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["payloads"], ids=lambda vector: vector["name"])
def test_payloads_are_the_sdks(vector: dict[str, Any]) -> None:
    expected = Payload(
        PayloadType(vector["type"]),
        bytes.fromhex(vector["messageId"]),
        bytes.fromhex(vector["data"]),
        bytes.fromhex(vector["replyToId"]),
        vector["noReply"],
    )
    assert expected.encode().hex() == vector["bytes"]
    assert Payload.decode(bytes.fromhex(vector["bytes"])) == expected


def test_text_is_the_sdks() -> None:
    data = next(bytes.fromhex(each["data"]) for each in VECTORS["payloads"] if each["name"] == "text")
    assert TextData.decode(data) == TextData("grüße, мир")
    assert TextData("grüße, мир").encode() == data
    assert TextData.decode(b"") == TextData("")


@pytest.mark.parametrize("vector", [VECTORS["single"], *VECTORS["several"]], ids=["single", "bob", "carol"])
def test_envelopes_are_the_sdks(vector: dict[str, Any]) -> None:
    payload, nonce, key = (bytes.fromhex(vector[name]) for name in ("payload", "nonce", "encryptedKey"))
    expected = Message(payload, True, nonce, key)
    assert expected.encode().hex() == vector["bytes"]
    assert Message.decode(bytes.fromhex(vector["bytes"])) == expected


def test_an_envelope_that_is_not_sealed_is_the_sdks() -> None:
    assert Message.decode(bytes.fromhex(VECTORS["bare"])) == Message(bytes.fromhex(VECTORS["plaintext"]))
    assert Message(bytes.fromhex(VECTORS["plaintext"])).encode().hex() == VECTORS["bare"]


def test_fields_of_fixed_width_are_unknown_as_they_are_to_the_library() -> None:
    for data in (b"\x15\x00\x00\x00\x01", b"\x11" + b"\xff" * 8, b"\x0d" + b"abcd"):
        assert not nkn_proto.read("Message", data).encrypted
        assert Message.decode(data) == Message(b"")


def test_an_unknown_payload_type() -> None:
    with pytest.raises(RemoteProtocolError, match="payload type 4"):
        Payload.decode(nkn_proto.make("Payload", type=4))
