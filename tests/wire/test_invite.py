from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire.invite import (
    MAX_INVITE_BYTES,
    Application,
    Frame,
    Grant,
    Reason,
    Refusal,
    decode,
    unwrap,
    wrap,
)
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import FrameKind

ids = st.binary(min_size=8, max_size=8)
macs = st.binary(min_size=16, max_size=16)
frames = st.one_of(
    st.builds(Application, ids, macs, st.binary(min_size=1, max_size=200)),
    st.builds(Grant, ids, st.binary(max_size=200)),
    st.builds(Refusal, ids, st.integers(0, 255), macs),
)
KEY = b"k" * 32


@given(frames)
def test_what_is_written_is_read(frame: Frame) -> None:
    assert decode(frame.encode()) == frame
    message = Message.decode(wrap(frame, bytes(8)))
    assert not message.encrypted
    assert unwrap(message.payload) == frame


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, b"nc" + data, b"nc\x01" + data):
        try:
            frame = decode(candidate)
        except RemoteProtocolError:
            continue
        assert frame is None or frame.encode() == candidate
    try:
        unwrap(data)
    except RemoteProtocolError:
        pass


def test_layouts() -> None:
    """docs/protocol.md, "Invitations"."""
    token_id, mac = b"IIIIIIII", b"M" * 16
    assert Application(token_id, mac, b"noise").encode() == b"nc\x01\x03IIIIIIII" + mac + b"noise"
    assert Grant(token_id, b"noise").encode() == b"nc\x01\x04IIIIIIIInoise"
    assert Refusal(token_id, Reason.REVOKED, mac).encode() == b"nc\x01\x05IIIIIIII\x03" + mac


@pytest.mark.parametrize(
    "data",
    [
        b"nc",
        b"nc\x01\x03IIIIIII",
        b"nc\x01\x03IIIIIIII" + bytes(16),
        b"nc\x01\x05IIIIIIII\x01" + bytes(15),
        b"nc\x01\x05IIIIIIII\x01" + bytes(17),
        b"nc\x01\x04IIIIIIII" + bytes(MAX_INVITE_BYTES),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@pytest.mark.parametrize("data", [b"nc\x02\x03IIIIIIII" + bytes(20), b"xx\x01\x03IIIIIIII" + bytes(20)])
def test_another_version_or_something_else(data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize("kind", list(FrameKind))
def test_the_tunnels_own_frames_are_none(kind: FrameKind) -> None:
    assert decode(b"nc\x01" + bytes([kind]) + bytes(40)) is None


def test_other_payloads_are_none() -> None:
    frame = Grant(bytes(8), b"").encode()
    assert unwrap(Payload(PayloadType.TEXT, data=frame).encode()) is None
    assert unwrap(Payload(PayloadType.BINARY, data=b"hello").encode()) is None
    assert unwrap(b"\xff") is None
    assert unwrap(bytes(MAX_INVITE_BYTES + 65)) is None


def test_a_mac_is_over_everything() -> None:
    made = Application.sealed(KEY, "device", "provider", bytes(8), b"noise")
    assert made.is_authentic(KEY, "device", "provider")
    assert not made.is_authentic(b"K" * 32, "device", "provider")
    assert not made.is_authentic(KEY, "Device", "provider")
    assert not made.is_authentic(KEY, "device", "Provider")
    assert not Application(b"other id", made.mac, made.noise).is_authentic(KEY, "device", "provider")
    assert not Application(bytes(8), made.mac, b"Noise").is_authentic(KEY, "device", "provider")
    answer = Refusal.sealed(KEY, "device", "provider", made, Reason.USED)
    assert answer.is_authentic(KEY, "device", "provider", made)
    assert not Refusal(bytes(8), Reason.REVOKED, answer.mac).is_authentic(KEY, "device", "provider", made)
    other = Application.sealed(KEY, "device", "provider", bytes(8), b"noisy")
    assert not answer.is_authentic(KEY, "device", "provider", other)
    assert answer.mac != made.mac
