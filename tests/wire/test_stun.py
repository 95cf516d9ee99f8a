"""STUN's codec: RFC 5769's vectors, what is refused, and any bytes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address
from nconnect.wire import stun

# RFC 5769, sections 2.1 to 2.3.
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RESPONSE_V4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RESPONSE_V6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)

addresses = st.ip_addresses()
ports = st.integers(0, 65535)
transactions = st.binary(min_size=12, max_size=12)


def test_the_rfcs_request() -> None:
    message = stun.decode(REQUEST)
    assert (message.type, message.transaction) == (stun.BINDING_REQUEST, TRANSACTION)
    assert message.first(stun.SOFTWARE) == b"STUN test client"
    assert message.first(0x0006) == b"evtj:h6vY"  # USERNAME, without its padding
    assert stun.unknown_required(message)  # USERNAME and MESSAGE-INTEGRITY: for a server with passwords


@pytest.mark.parametrize(
    ("data", "address"), [(RESPONSE_V4, "192.0.2.1"), (RESPONSE_V6, "2001:db8:1234:5678:11:2233:4455:6677")]
)
def test_the_rfcs_responses(data: bytes, address: str) -> None:
    message = stun.decode(data)
    assert message.transaction == TRANSACTION
    assert stun.mapped_address(message) == (ip_address(address), 32853)
    ours = stun.encode_response(TRANSACTION, ip_address(address), 32853)
    value = stun.decode(ours).first(stun.XOR_MAPPED_ADDRESS)
    assert value == message.first(stun.XOR_MAPPED_ADDRESS)


@given(transactions, addresses, ports)
def test_what_is_written_is_read(transaction: bytes, address: Address, port: int) -> None:
    data = stun.encode_response(transaction, address, port)
    assert len(data) == stun.response_bytes(address.version)
    message = stun.decode(data)
    assert message.transaction == transaction
    assert stun.mapped_address(message) == (address, port)


@given(transactions, st.sampled_from([20, *range(24, 200, 4)]))
def test_a_request_has_the_size_that_is_asked_for(transaction: bytes, size: int) -> None:
    data = stun.encode_request(transaction, size=size)
    assert len(data) == size
    message = stun.decode(data)
    assert (message.type, message.transaction) == (stun.BINDING_REQUEST, transaction)
    assert not stun.unknown_required(message)


def test_old_servers_tell_a_plain_address() -> None:
    value = bytes.fromhex("0001" + "8055" + "c0000201")
    data = bytes.fromhex("0101000c2112a442") + TRANSACTION + bytes.fromhex("00010008") + value
    assert stun.mapped_address(stun.decode(data)) == (IPv4Address("192.0.2.1"), 32853)


def test_the_first_of_equal_attributes_counts() -> None:
    one = stun.encode_response(TRANSACTION, IPv4Address("192.0.2.1"), 1)
    other = stun.encode_response(TRANSACTION, IPv4Address("192.0.2.2"), 2)[20:]
    both = one[:2] + (24).to_bytes(2, "big") + one[4:] + other
    assert stun.mapped_address(stun.decode(both)) == (IPv4Address("192.0.2.1"), 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (REQUEST[:19], "too short"),
        (REQUEST + bytes(stun.MAX_STUN_BYTES), "too long"),
        (b"\x40" + REQUEST[1:], "not a STUN header"),
        (REQUEST[:4] + b"\x21\x12\xa4\x43" + REQUEST[8:], "not a STUN header"),
        (REQUEST[:-4], "not a STUN header"),
        (REQUEST[:2] + b"\0\3" + REQUEST[4:20] + b"abc", "not a STUN header"),
        (REQUEST[:2] + b"\0\4" + REQUEST[4:20] + b"\x80\x22\0\5", "beyond the message"),
        (REQUEST[:-1] + b"\0", "wrong FINGERPRINT"),
        (REQUEST[:2] + b"\0\x60" + REQUEST[4:] + b"\x80\x22\0\0" + b"\x80\x22\0\0", "FINGERPRINT"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        stun.decode(data)


def test_every_changed_bit_of_a_fingerprinted_message_is_found() -> None:
    for bit in range(8 * len(RESPONSE_V4)):
        data = bytearray(RESPONSE_V4)
        data[bit // 8] ^= 1 << bit % 8
        try:
            message = stun.decode(data)
        except RemoteProtocolError:
            continue
        assert message.first(stun.FINGERPRINT) is None  # the bit made another attribute of it


@pytest.mark.parametrize(
    ("type", "attributes"),
    [
        (stun.BINDING_RESPONSE, ""),
        (stun.BINDING_RESPONSE, "002000040001a147"),
        (stun.BINDING_RESPONSE, "002000080002a147e112a643"),  # IPv6 of four bytes
        (stun.BINDING_RESPONSE, "002000080003a147e112a643"),
        (stun.BINDING_ERROR, "002000080001a147e112a643"),
        (stun.BINDING_REQUEST, "002000080001a147e112a643"),
    ],
)
def test_an_answer_that_tells_no_address_is_refused(type: int, attributes: str) -> None:
    body = bytes.fromhex(attributes)
    data = type.to_bytes(2, "big") + len(body).to_bytes(2, "big") + REQUEST[4:20] + body
    with pytest.raises(RemoteProtocolError):
        stun.mapped_address(stun.decode(data))


@given(st.one_of(st.binary(max_size=120), st.binary(max_size=60).map(lambda b: RESPONSE_V6[:20] + b)))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        message = stun.decode(data)
        address, port = stun.mapped_address(message)
    except RemoteProtocolError:
        return
    assert isinstance(address, IPv4Address | IPv6Address)
    assert 0 <= port < 65536


@given(st.data())
def test_a_damaged_answer_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([REQUEST, RESPONSE_V4, RESPONSE_V6]))[:-8])
    whole[2:4] = (len(whole) - 20).to_bytes(2, "big")  # without the fingerprint, which would find it
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        stun.mapped_address(stun.decode(whole))
    except RemoteProtocolError:
        pass
