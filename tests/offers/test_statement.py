"""What a peer tells: what is well-formed is read, the rest is left out and counted."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.values import parse_allow_rule
from nconnect.offers import statement as codec
from nconnect.offers.statement import OfferedServer, Rate, Statement, decode, encode

OLLAMA = OfferedServer(
    "ollama", "http://10.86.0.1:11434", "Ollama", ("llama3.2:3b", "qwen2.5:7b"), ("chat", "llm")
)
FULL = Statement(
    subnets=(ip_network("192.168.50.0/24"), ip_network("fd00:50::/64")),
    allow=(parse_allow_rule("192.168.50.10:8000-8009/tcp"), parse_allow_rule("[fd00:50::/64]:22")),
    addresses=(ip_address("10.86.0.1"), ip_address("fd00:86::1")),
    hosts=(("nas", ip_address("192.168.50.9")),),
    servers=(OLLAMA, OfferedServer("vllm", "https://[fd00:50::7]:8000/v1")),
    paused="back at 22:00",
    rate=Rate(50_000_000, None),
    refused_source=(ip_address("10.86.0.9"),),
    expected=(ip_network("10.86.0.3/32"),),
)


def test_without_a_list_all_is_allowed_and_an_empty_one_allows_nothing() -> None:
    assert read().allow is None
    assert read(allow=[]).allow == ()
    assert read(allow="all") == Statement(allow=(), dropped=1)


@pytest.mark.parametrize("rule", [7, "", "somewhere", "10.0.0.0/24:0", "\x1b[31m", "1" * 200, {}])
def test_a_rule_that_is_none_is_left_out(rule: object) -> None:
    (kept,) = read(allow=[rule, "10.0.0.1:80/tcp"]).allow or ()
    assert kept == parse_allow_rule("10.0.0.1:80/tcp")
    assert read(allow=[rule]).dropped == 1


def read(**members: object) -> Statement:
    return decode(json.dumps(members).encode())


def test_what_is_written_is_read() -> None:
    assert decode(encode(FULL)) == FULL
    assert decode(encode(Statement())) == Statement()
    assert decode(b"") == Statement()


def test_unknown_members_are_ignored() -> None:
    assert read(subnets=["10.0.0.0/24"], later={"x": 1}) == Statement(subnets=(ip_network("10.0.0.0/24"),))


@pytest.mark.parametrize(
    "document", [b"\xff", b"{", b"[]", b"7", b'{"a":NaN}', b"[" * 60_000, b"{}" + b" " * codec.MAX_BYTES]
)
def test_what_is_no_object_says_nothing(document: bytes) -> None:
    assert decode(document) == Statement(dropped=1)


@pytest.mark.parametrize(
    "prefix", ["10.0.0.1/24", "10.0.0.0/33", "x", 7, None, "fe80::%eth0/64", [], "10.0.0.0/ 8"]
)
def test_a_bad_prefix_is_left_out(prefix: object) -> None:
    assert read(subnets=[prefix, "10.0.0.0/24"]) == Statement(subnets=(ip_network("10.0.0.0/24"),), dropped=1)


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST",
        "metadata.google.internal",
        "a b",
        "\x1b[31mred",
        "x" * 300,
        "",
        "-a",
        "a-",
        "ä",
        7,
    ],
)
def test_hostile_names_are_left_out(name: object) -> None:
    server = {"name": name, "url": "http://10.86.0.1:80"}
    host = {"name": name, "address": "10.86.0.1"}
    assert read(servers=[server], hosts=[host]) == Statement(dropped=2)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80", "http://[::1]", "http://0.0.0.0", "http://169.254.169.254/", "ftp://10.0.0.1",
        "http://user@10.0.0.1", "http://box.lan:80", "http://10.0.0.1:99999", "http://10.0.0.1/\x1b[2J",
        "http://10.0.0.1/ x", "javascript:1", "http://10.0.0.1/" + "x" * 300, "http://[::ffff:10.0.0.1]/", 7,
    ],
)  # fmt: skip
def test_urls_that_lead_elsewhere_are_left_out(url: object) -> None:
    assert read(servers=[{"name": "a", "url": url}]) == Statement(dropped=1)


def test_a_bad_model_costs_itself_alone() -> None:
    models = ["good", "\x1b]0;title\x07", "x" * 300, "", 7, None, "also good"]
    server = {
        "name": "a",
        "url": "http://10.0.0.1",
        "kind": "\n",
        "models": models,
        "names": ["ok", "localhost"],
    }
    said = read(servers=[server])
    assert said.servers == (OfferedServer("a", "http://10.0.0.1", "", ("good", "also good"), ("ok",)),)
    assert said.dropped == 7


def test_of_two_servers_with_one_name_the_first_counts() -> None:
    servers = [{"name": name, "url": f"http://10.0.0.{n}"} for n, name in enumerate(("a", "A", "b"), 1)]
    said = read(servers=servers)
    assert [server.url for server in said.servers] == ["http://10.0.0.1", "http://10.0.0.3"]
    assert said.dropped == 1


def test_a_pause_counts_whatever_its_reason_looks_like() -> None:
    assert read(paused={"why": "\x1b[31mback\n" + "x" * 300}).paused == "[31mback" + "x" * 110
    assert read(paused={}).paused == ""
    assert read(paused="yes").paused == ""
    assert read(paused=None).paused is None


@pytest.mark.parametrize("rate", [{"up": 0}, {"up": -1}, {"up": True}, {"up": 1.5}, {"down": 1 << 60}, "50M"])
def test_a_rate_of_nonsense_is_none(rate: object) -> None:
    assert read(rate=rate) == Statement(dropped=1)


def test_everything_has_a_bound() -> None:
    said = read(subnets=[f"10.0.{n >> 8}.{n & 255}/32" for n in range(2000)])
    assert (len(said.subnets), said.dropped) == (codec.MAX_SUBNETS, 2000 - codec.MAX_SUBNETS)


def test_what_does_not_fit_is_left_out_models_first() -> None:
    servers = tuple(
        OfferedServer(f"s{n}", f"http://10.0.0.{n}", "x" * 100, tuple(f"{m}{'m' * 100}" for m in range(64)))
        for n in range(1, 65)
    )
    data = encode(Statement(servers=servers))
    said = decode(data)
    assert len(data) <= codec.MAX_BYTES
    assert [len(server.models) for server in said.servers] == [4] * 64
    urls = tuple(OfferedServer(f"s{n}", f"http://10.0.0.1/{'x' * 2000}") for n in range(64))
    assert 0 < len(encode(Statement(servers=urls))) <= codec.MAX_BYTES


_TEXTS = st.sampled_from(["10.0.0.1", "10.0.0.0/8", "http://10.0.0.1", "a"])
_KEYS = ["name", "url", "address", "why", "up", "models", "names"]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_MEMBERS = ("subnets", "addresses", "hosts", "servers", "paused", "rate", "refused_source", "expected")


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(_MEMBERS), _VALUES).map(lambda d: json.dumps(d).encode())
)
def test_any_bytes_are_read_or_dropped_and_what_is_read_is_written_the_same(document: bytes) -> None:
    said = decode(document)
    assert decode(encode(said)) == replace(said, dropped=0)
