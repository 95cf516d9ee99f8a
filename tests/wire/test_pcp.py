"""The codec of PCP and NAT-PMP: layouts by hand from the RFCs, what is refused, and any bytes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire import pcp
from nconnect.wire.pcp import Mapped, Refused, Told

OWN = IPv4Address("192.168.1.7")
NONCE = bytes(range(12))
OWN_MAPPED = "00000000000000000000ffffc0a80107"
# RFC 6887, sections 7.2 and 11.1: 7,200 s, epoch 600 s, UDP 41641 -> 203.0.113.9:41642.
PCP_MAPPED = bytes.fromhex(
    "02810000" "00001c20" "00000258" + "00" * 12
    + NONCE.hex() + "11000000" "a2a9" "a2aa" "00000000000000000000ffffcb007109"
)  # fmt: skip
PMP_ADDRESS = bytes.fromhex("0080000000000258cb007109")
PMP_MAPPED = bytes.fromhex("0081000000000258a2a9a2aa00001c20")


def test_requests() -> None:
    assert pcp.announce(OWN).hex() == "0200000000000000" + OWN_MAPPED
    first = pcp.map_request(OWN, "udp", 41641, nonce=NONCE, lifetime_s=7200)
    no_address = "00000000000000000000ffff00000000"
    assert first.hex() == (
        "02010000" "00001c20" + OWN_MAPPED + NONCE.hex() + "11000000" "a2a9" "a2a9" + no_address
    )  # fmt: skip
    again = pcp.map_request(
        OWN, "tcp", 41641, nonce=NONCE, lifetime_s=7200, external=(IPv4Address("203.0.113.9"), 7)
    )
    assert again[36] == 6
    assert again[42:].hex() == "000700000000000000000000ffffcb007109"
    gone = pcp.map_request(OWN, "udp", 41641, nonce=NONCE, lifetime_s=0)
    assert (gone[4:8], gone[40:].hex()) == (bytes(4), "a2a90000" + no_address)
    assert pcp.pmp_address_request() == b"\0\0"
    assert pcp.pmp_map_request("udp", 41641, lifetime_s=7200).hex() == "00010000a2a9a2a900001c20"
    assert pcp.pmp_map_request("tcp", 41641, lifetime_s=0).hex() == "00020000a2a9000000000000"


def test_requests_for_ipv6() -> None:
    """RFC 6887, sections 5, 7.1 and 11.1: plain IPv6 addresses, and zeros for none."""
    own = IPv6Address("2001:db8:101::2")
    packed = "20010db8010100000000000000000002"
    assert pcp.announce(own).hex() == "0200000000000000" + packed
    hole = pcp.map_request(own, "udp", 41641, nonce=NONCE, lifetime_s=7200, external=(own, 41641))
    assert hole.hex() == (
        "02010000" "00001c20" + packed + NONCE.hex() + "11000000" "a2a9" "a2a9" + packed
    )  # fmt: skip
    gone = pcp.map_request(own, "tcp", 41641, nonce=NONCE, lifetime_s=0)
    assert (gone[4:8], gone[40:].hex()) == (bytes(4), "a2a90000" + "00" * 16)


def test_answers() -> None:
    address = IPv4Address("203.0.113.9")
    assert pcp.decode(PCP_MAPPED) == Mapped("udp", 41641, 41642, address, 7200, 600, NONCE)
    assert pcp.decode(PCP_MAPPED + bytes(8)) == pcp.decode(PCP_MAPPED)  # an option
    six = PCP_MAPPED[:44] + IPv6Address("2001:db8::9").packed
    assert pcp.decode(six) == Mapped("udp", 41641, 41642, IPv6Address("2001:db8::9"), 7200, 600, NONCE)
    assert pcp.decode(bytes.fromhex("028000000000000000000258") + bytes(12)) == Told(None, 600)
    assert pcp.decode(PMP_ADDRESS) == Told(address, 600)
    assert pcp.decode(PMP_MAPPED) == Mapped("udp", 41641, 41642, None, 7200, 600, b"")


def test_errors_have_words() -> None:
    refused = PCP_MAPPED[:3] + b"\x08" + PCP_MAPPED[4:]
    assert pcp.decode(refused) == Refused(True, 8, "no resources", 7200, "udp", NONCE)
    assert pcp.decode(refused[:24]) == Refused(True, 8, "no resources", 7200, None, b"")
    assert pcp.decode(bytes.fromhex("0082000200000258")) == Refused(False, 2, "not authorized", 0, "tcp", b"")
    assert pcp.decode(bytes.fromhex("0080000100000258")) == Refused(
        False, pcp.UNSUPPORTED_VERSION, "unsupported version", 0, None, b""
    )
    unknown = pcp.decode(PCP_MAPPED[:3] + b"\xff" + PCP_MAPPED[4:])
    assert isinstance(unknown, Refused)
    assert unknown.why == "error 255"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        PCP_MAPPED[:1] + b"\x01" + PCP_MAPPED[2:],  # a request
        PCP_MAPPED[:-4],
        PCP_MAPPED + b"\0",
        PCP_MAPPED + bytes(1100),
        PCP_MAPPED[:36] + b"\x84" + PCP_MAPPED[37:],  # SCTP
        b"\x02\x82" + PCP_MAPPED[2:],  # PEER
        b"\x01" + PCP_MAPPED[1:],  # a version that does not exist
        b"\x03" + PCP_MAPPED[1:],
        PMP_ADDRESS[:-1],
        PMP_MAPPED[:-1],
        PMP_MAPPED[:7],
        b"\x00\x83" + PMP_MAPPED[2:],
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        pcp.decode(data)


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\x02\x81\0\0", b"\x02\x81\0\x08", b"\0\x81\0\0", b"\0\x80\0\0"]),
)
def test_any_bytes_are_read_or_refused(data: bytes, head: bytes) -> None:
    try:
        answer = pcp.decode(head + data)
    except RemoteProtocolError:
        return
    assert isinstance(answer, Mapped | Told | Refused)


@given(
    st.sampled_from(["udp", "tcp"]), st.integers(1, 65535), st.ip_addresses(v=4), st.integers(0, 2**32 - 1)
)
def test_a_request_turned_into_an_answer_reads_as_was_asked(
    protocol: str, port: int, address: IPv4Address, lifetime_s: int
) -> None:
    request = pcp.map_request(
        OWN, protocol, port, nonce=NONCE, lifetime_s=lifetime_s, external=(address, port)
    )
    answer = request[:1] + b"\x81" + request[2:8] + bytes(16) + request[24:]
    assert pcp.decode(answer) == Mapped(protocol, port, port, ip_address(address), lifetime_s, 0, NONCE)
