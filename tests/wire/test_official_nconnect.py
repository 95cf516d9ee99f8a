"""What the official nConnect puts into messages and streams."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.wire import official_nconnect as official
from nconnect.wire.official_nconnect import DirectRequest, InfoRequest, ServerInfo, UnknownRequest

KEY = "ab" * 32
INFO = ServerInfo(NknAddress("tun", bytes.fromhex(KEY)), ("10.0.0.5", "192.168.1.2"))
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9-]{0,20}){0,3}", fullmatch=True),
)


def test_the_bytes_of_a_target() -> None:
    assert official.target_header("192.168.55.10", 8000).hex() == "01c0a8370a1f40"
    assert official.target_header("gpu.lan", 80) == b"\x03\x07gpu.lan\x00\x50"
    assert official.target_header("::1", 1).hex() == "04" + "00" * 15 + "01" + "0001"


@given(HOSTS, st.integers(0, 65535), st.binary(max_size=5))
def test_a_target_is_read_where_it_ends(host: str, port: int, rest: bytes) -> None:
    head = official.target_header(host, port)
    assert len(head) <= official.MAX_TARGET_BYTES
    assert official.read_target(head + rest) == (host, port, len(head))
    for size in range(len(head)):
        assert official.read_target(head[:size]) is None


@pytest.mark.parametrize(
    "head", ["0001", "0501020304", "030000500000", "0302ff2e0050", "0302610a0050", "0301200050"]
)
def test_what_is_no_target_is_refused(head: str) -> None:
    with pytest.raises(RemoteProtocolError):
        official.read_target(bytes.fromhex(head))


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="255"):
        official.target_header(name, 80)


def test_requests_are_those_of_the_official_client() -> None:
    asked = official.info_request()
    assert json.loads(asked) == {"id": "nConnect", "method": "getInfo", "params": None, "token": ""}
    assert official.read_admin_request(asked) == InfoRequest()
    assert official.read_admin_request('{"id":"nConnect","method":"getSeed"}') == UnknownRequest("getSeed")
    assert official.read_admin_request('{"action":"getPubAddr","sessionID":"AAECAwQFBgc="}') == DirectRequest(
        bytes(range(8))
    )


@pytest.mark.parametrize(
    "request_",
    [
        "",
        "[]",
        "{}",
        '{"method":1}',
        '{"action":"getPubAddr"}',
        '{"action":"getPubAddr","sessionID":"*"}',
        "x" * 5000,
    ],
)
def test_a_request_that_is_none_is_refused(request_: str) -> None:
    with pytest.raises(RemoteProtocolError):
        official.read_admin_request(request_)


def test_answers_are_read_and_written() -> None:
    answer = official.info_answer(INFO)
    assert json.loads(answer)["result"]["addr"] == f"tun.{KEY}"
    assert official.read_info(answer) == INFO
    # As an official server says it, with fields that ours leaves out.
    theirs = {
        "result": {
            "addr": f"x.{KEY}", "localIP": {"ipv4": ["10.0.0.5", "no address", 3]}, "tags": None,
            "adminHttpApiDisabled": False, "version": "v1", "tuna": False, "inPrice": ["0"],
        }
    }  # fmt: skip
    assert official.read_info(json.dumps(theirs)) == ServerInfo(NknAddress.parse(f"x.{KEY}"), ("10.0.0.5",))
    assert official.read_info(json.dumps({"result": {"addr": KEY}})).local_ips == ()
    with pytest.raises(RemoteProtocolError, match="permission denied"):
        official.read_info(official.error_answer("permission denied"))
    assert json.loads(official.direct_answer([("192.0.2.1", 5)])) == {
        "addrs": [{"ip": "192.0.2.1", "port": 5}],
        "sessionClosed": False,
    }


@pytest.mark.parametrize(
    "answer", ["", "{}", '{"result":[]}', '{"result":{"addr":"x"}}', '{"result":{"addr":""}}']
)
def test_an_answer_that_is_none_is_refused(answer: str) -> None:
    with pytest.raises(RemoteProtocolError):
        official.read_info(answer)


def test_addresses_are_written_as_ipaddress_does() -> None:
    head = b"\x04" + ipaddress.IPv6Address("2001:db8::1").packed + b"\x00\x50"
    assert official.read_target(head) == ("2001:db8::1", 80, 19)
